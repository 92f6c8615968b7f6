// Package githost speaks git's smart protocol (https://git-scm.com/docs/http-protocol, version 0) for the repositories
// that Kiln keeps in its database. It runs no git program and keeps nothing on disk. A push is read at once: faulty
// recipes refuse it, and what it changes is built.
package githost

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// The two services of the protocol.
const (
	UploadPack  = "git-upload-pack"  // clone and fetch
	ReceivePack = "git-receive-pack" // push
)

// What each service can do. no-thin asks pushers for packs that stand alone; every push is atomic.
const (
	uploadCan  = "multi_ack_detailed side-band-64k shallow no-progress ofs-delta object-format=sha1 agent=kiln"
	receiveCan = "report-status delete-refs side-band-64k ofs-delta no-thin atomic object-format=sha1 agent=kiln"
)

// Host serves repositories. It is safe for many goroutines.
type Host struct {
	builds *build.Service
	limits packs.Limits
	log    logrus.FieldLogger
	slots  chan struct{}
}

// Config is what a Host stands on.
type Config struct {
	Builds *build.Service // its Store has the repositories
	Limits packs.Limits
	Open   int // repositories that are in memory at once; 4 where it is 0
	Log    logrus.FieldLogger
}

// New makes a Host.
func New(c Config) *Host {
	if c.Open <= 0 {
		c.Open = 4
	}
	if c.Log == nil {
		c.Log = log.Discard()
	}
	return &Host{builds: c.Builds, limits: c.Limits.Complete(), log: c.Log, slots: make(chan struct{}, c.Open)}
}

// MaxRequest is the most bytes of a request, unpacked.
func (h *Host) MaxRequest() int64 { return h.limits.MaxBytes + 1<<20 }

// enter waits for room to hold a repository in memory. The function gives it back.
func (h *Host) enter(ctx context.Context) (leave func(), err error) {
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-ctx.Done():
		return nil, errs.New(errs.Unavailable, "kiln.git.busy", "too many repositories are open: try again").After(5 * time.Second)
	}
}

// Advertise answers info/refs: what the repository has, and what the service can do.
func (h *Host) Advertise(ctx context.Context, src build.Source, service string, w io.Writer) error {
	repo, err := h.builds.Store.FindRepository(ctx, src.ID, false)
	if err != nil {
		return err
	}
	can, lines := receiveCan, []string{}
	if service == UploadPack {
		can = uploadCan
		head := slices.IndexFunc(repo.Refs, func(r build.Ref) bool { return src.Follows(r.Name) && strings.HasPrefix(r.Name, "refs/heads/") })
		if head >= 0 {
			can += " symref=HEAD:" + repo.Refs[head].Name
			lines = append(lines, repo.Refs[head].Hash+" HEAD")
		}
	}
	for _, r := range repo.Refs {
		lines = append(lines, r.Hash+" "+r.Name)
	}
	if len(lines) == 0 {
		lines = []string{strings.Repeat("0", 40) + " capabilities^{}"}
	}
	lines[0] += "\x00" + can
	e := pktline.NewEncoder(w)
	if err := e.Encodef("# service=%s\n", service); err != nil {
		return err
	}
	if err := e.Flush(); err != nil {
		return err
	}
	for _, l := range lines {
		if err := e.EncodeString(l + "\n"); err != nil {
			return err
		}
	}
	return e.Flush()
}

func malformed(format string, args ...any) error {
	return errs.New(errs.Invalid, "kiln.git.request", "this is not what git sends: %s", fmt.Sprintf(format, args...))
}

func newID() string { return uuid.NewString() }
