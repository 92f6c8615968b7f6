//go:build ceph

package ceph

import (
	"regexp"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// partMark is in the name of a copy that is being written. No copy can have such a name.
const partMark = ".part-"

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

func check(name string) error {
	if !goodName.MatchString(name) || strings.Contains(name, partMark) {
		return errs.New(errs.Invalid, "kiln.cache.name", "%q cannot be the name of a copy: use letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

func (c *Config) complete() {
	if c.Conf == "" {
		c.Conf = "/etc/ceph/ceph.conf"
	}
	if c.Writers == 0 {
		c.Writers = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.MinAge == 0 {
		c.MinAge = time.Minute
	}
}
