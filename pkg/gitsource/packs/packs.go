// Package packs reads and writes the objects of the git repositories that Kiln keeps itself: packs out of the
// database into memory, within limits that also hold against packs that were made to burst.
package packs

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/hash"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Limits bound a repository. The zero value has the defaults.
type Limits struct {
	MaxBytes    int64 // of all packs; 64 MiB
	MaxInflated int64 // of all objects in memory; four times MaxBytes
	MaxObjects  int   // 100,000
	MaxFiles    int   // of one commit; 5,000
	MaxRefs     int   // 500
}

// Complete fills in the defaults.
func (l Limits) Complete() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = 64 << 20
	}
	if l.MaxInflated <= 0 {
		l.MaxInflated = 4 * l.MaxBytes
	}
	if l.MaxObjects <= 0 {
		l.MaxObjects = 100_000
	}
	if l.MaxFiles <= 0 {
		l.MaxFiles = 5_000
	}
	if l.MaxRefs <= 0 {
		l.MaxRefs = 500
	}
	return l
}

// Objects are those of one repository, in memory.
type Objects struct {
	*memory.Storage
	limits   Limits
	inflated int64
	objects  int
}

// Open reads the packs of a repository.
func Open(r build.Repository, l Limits) (*Objects, error) {
	o := &Objects{Storage: memory.NewStorage(), limits: l.Complete()}
	for _, p := range r.Packs {
		if err := o.Add(p.Data); err != nil {
			return nil, fmt.Errorf("pack %d: %w", p.Seq, err)
		}
	}
	return o, nil
}

func malformed(cause error) error {
	return errs.Wrap(cause, errs.Invalid, "kiln.git.pack", "the pack cannot be read")
}

// TooLarge says which limit a push breaks.
func (l Limits) TooLarge() error {
	return errs.New(errs.TooLarge, "kiln.git.too_large", "the repository has more than %d MiB in packs, %d MiB unpacked or %d objects",
		l.MaxBytes>>20, l.MaxInflated>>20, l.MaxObjects)
}

// Add reads a pack. Its objects may be deltas of those that are there already. errs.Invalid kiln.git.pack for one
// that is not whole, errs.TooLarge kiln.git.too_large beyond the limits; the objects are of no use then.
func (o *Objects) Add(pack []byte) error {
	if err := o.weigh(pack); err != nil {
		return err
	}
	parser, err := packfile.NewParserWithStorage(packfile.NewScanner(bytes.NewReader(pack)), o.Storage)
	if err == nil {
		_, err = parser.Parse()
	}
	if err != nil {
		return malformed(err)
	}
	return nil
}

const trailer = 20 // bytes of SHA-1

// weigh walks over a pack without keeping anything of it: checksum, number of objects, and the bytes that each
// will take. Only then is it safe to unpack.
func (o *Objects) weigh(pack []byte) error {
	if len(pack) < 12+trailer {
		return malformed(io.ErrUnexpectedEOF)
	}
	body, sum := pack[:len(pack)-trailer], pack[len(pack)-trailer:]
	h := hash.New(crypto.SHA1)
	h.Write(body)
	if !bytes.Equal(h.Sum(nil), sum) {
		return malformed(errors.New("its checksum is not that of its bytes"))
	}
	scanner := packfile.NewScanner(bytes.NewReader(pack))
	_, count, err := scanner.Header()
	if err != nil {
		return malformed(err)
	}
	if o.objects += int(count); o.objects > o.limits.MaxObjects {
		return o.limits.TooLarge()
	}
	for range count {
		header, err := scanner.NextObjectHeader()
		if err != nil {
			return malformed(err)
		}
		if err := o.count(header.Length); err != nil {
			return err
		}
		var head start
		if _, _, err := scanner.NextObject(&head); err != nil {
			return malformed(err)
		}
		if !header.Type.IsDelta() {
			continue
		}
		target, err := targetSize(head.data)
		if err != nil {
			return malformed(err)
		}
		if err := o.count(target); err != nil {
			return err
		}
	}
	return nil
}

func (o *Objects) count(size int64) error {
	if size < 0 || size > o.limits.MaxInflated {
		return o.limits.TooLarge()
	}
	if o.inflated += size; o.inflated > o.limits.MaxInflated {
		return o.limits.TooLarge()
	}
	return nil
}

// start keeps the first bytes that are written to it.
type start struct{ data []byte }

func (s *start) Write(p []byte) (int, error) {
	if room := 2*binary.MaxVarintLen64 - len(s.data); room > 0 {
		s.data = append(s.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// targetSize is the second number of a delta (https://git-scm.com/docs/pack-format, deltified representation):
// how many bytes it becomes.
func targetSize(delta []byte) (int64, error) {
	_, n := binary.Uvarint(delta)
	if n <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	size, m := binary.Uvarint(delta[n:])
	if m <= 0 || size > 1<<62 {
		return 0, io.ErrUnexpectedEOF
	}
	return int64(size), nil
}

// Encode writes the objects as one pack without deltas: it never names an object that is not in it.
func (o *Objects) Encode(w io.Writer, hashes []plumbing.Hash) error {
	_, err := packfile.NewEncoder(w, o.Storage, false).Encode(hashes, 0)
	return err
}
