//go:build ceph

package ceph

import (
	"errors"
	"syscall"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// is reports whether librbd's or librados' error has the number.
func is(err error, number syscall.Errno) bool {
	var coded interface{ ErrorCode() int }
	return errors.As(err, &coded) && coded.ErrorCode() == -int(number)
}

// fault turns an error of Ceph into Kiln's.
func fault(err error, doing string) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case is(err, syscall.ENOSPC), is(err, syscall.EDQUOT):
		return errs.Wrap(err, errs.TooLarge, "kiln.cache.full", "the Ceph pool is full (%s)", doing)
	case is(err, syscall.ETIMEDOUT), is(err, syscall.ESHUTDOWN), is(err, syscall.ENOTCONN), is(err, syscall.ENOENT):
		return errs.Wrap(err, errs.Unavailable, "kiln.ceph.away", "Ceph does not answer (%s)", doing).After(30 * time.Second)
	case is(err, syscall.EACCES), is(err, syscall.EPERM):
		return errs.Wrap(err, errs.Unavailable, "kiln.ceph.denied", "Ceph refuses Kiln's user (%s): see `ceph auth get`", doing).After(time.Minute)
	}
	return errs.Wrap(err, errs.Internal, "kiln.ceph.fault", "Ceph failed (%s)", doing)
}
