package solve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// lists are the signed lists of some suites as one update of apt's found them, with apt's own cache of them. Many plans
// read them at the same time; nobody writes them any more.
type lists struct {
	work   *disk.Work
	dir    string
	made   time.Time
	suites []suite
	index  *index
	rpm    *rpmLists // instead of suites and index
	users  int       // guarded by shelf.mu
	stale  bool
	memory memory // of what was solved over them
}

// suite is a suite of the question with what its Release says.
type suite struct {
	upgrade.Suite
	codename string // "" where its Release names none
	security bool
}

// shelf has the lists of one set of suites and architectures.
type shelf struct {
	fetching chan struct{} // holds one token while nobody fetches
	mu       sync.Mutex
	now      *lists
}

// wanted says which lists a plan needs: of suites, or of repositories.
type wanted struct {
	suites       []upgrade.Suite
	archs        []string // the native one first
	repositories []upgrade.Repository
	release      string // $releasever of the repositories
}

func (w wanted) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %v %q %v", w.archs, w.suites, w.release, w.repositories))
	return hex.EncodeToString(sum[:8])
}

// lists gives the lists for a plan: those that are there where they are young enough, else new ones. However many plans
// ask at once, one fetches. The caller gives them back.
func (p *Planner) lists(ctx context.Context, w wanted) (*lists, error) {
	s := p.shelf(w.key())
	if l := s.take(p.cfg.Now(), p.cfg.MaxAge); l != nil {
		return l, nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.fetching:
	}
	defer func() { s.fetching <- struct{}{} }()
	if l := s.take(p.cfg.Now(), p.cfg.MaxAge); l != nil {
		return l, nil
	}
	l, err := p.fetch(ctx, w)
	if err != nil {
		return nil, err
	}
	return l, s.put(l)
}

func (p *Planner) shelf(key string) *shelf {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[key]
	if s == nil {
		s = &shelf{fetching: make(chan struct{}, 1)}
		s.fetching <- struct{}{}
		p.shelves[key] = s
	}
	return s
}

func (s *shelf) take(now time.Time, maxAge time.Duration) *lists {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || now.Sub(s.now.made) > maxAge {
		return nil
	}
	s.now.users++
	return s.now
}

// put makes l the lists of the shelf, with the caller as a user. The old ones go with their last user.
func (s *shelf) put(l *lists) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now
	s.now, l.users = l, 1
	if old == nil {
		return nil
	}
	old.stale = true
	return old.dropUnused()
}

// back ends the use of lists.
func (s *shelf) back(l *lists) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.users--
	return l.dropUnused()
}

// dropUnused removes lists that nobody will ask for again. The shelf is locked.
func (l *lists) dropUnused() error {
	if !l.stale || l.users > 0 {
		return nil
	}
	if l.index != nil {
		l.index.close()
	}
	return l.work.Close()
}

// fetch runs apt-get update in a folder of its own, builds apt's cache of the lists and our index of them.
func (p *Planner) fetch(ctx context.Context, w wanted) (_ *lists, err error) {
	if err := os.MkdirAll(p.cfg.Dir, 0o755); err != nil {
		return nil, disk.NoSpace(err, "the worker's disk")
	}
	work, err := disk.NewWork(p.cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &lists{work: work, dir: work.Path + "/shared", made: p.cfg.Now()}
	defer func() {
		if err != nil {
			work.Close() //nolint:errcheck // the sweep takes it
		}
	}()
	if len(w.repositories) > 0 {
		l.rpm, err = p.fetchRPM(ctx, l.dir, w)
		return l, err
	}
	if err := p.layLists(l.dir, w); err != nil {
		return nil, disk.NoSpace(err, "the worker's disk")
	}
	if err := p.update(ctx, l.dir, w); err != nil {
		return nil, err
	}
	for _, s := range w.suites {
		name, err := codename(filepath.Join(l.dir, "lists"), s)
		if err != nil {
			return nil, err
		}
		l.suites = append(l.suites, suite{Suite: s, codename: name, security: isSecurity(s.Suite)})
	}
	if l.index, err = readIndex(filepath.Join(l.dir, "lists"), l.suites, w.archs); err != nil {
		return nil, err
	}
	p.cfg.Log.WithField("suites", len(w.suites)).Debugf("package lists have %d packages", len(l.index.at))
	return l, nil
}

func isSecurity(suite string) bool {
	return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
}

func (p *Planner) layLists(dir string, w wanted) error {
	for _, sub := range []string{"lists/partial", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	keys, err := os.ReadFile(p.cfg.Keyring)
	if err != nil {
		return err
	}
	var sources strings.Builder
	for _, s := range w.suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s/keyring.gpg arch=%s] %s %s %s\n", sharedPath, strings.Join(w.archs, ","), strings.TrimRight(s.Mirror, "/"), s.Suite, strings.Join(s.Components, " "))
	}
	for name, text := range map[string][]byte{"keyring.gpg": keys, "sources.list": []byte(sources.String())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// update fetches the lists through a proxy of this process, and has apt build its cache of them.
func (p *Planner) update(ctx context.Context, dir string, w wanted) error {
	addr, stop, err := mirror.Listen(ctx, p.cfg.Proxy)
	if err != nil {
		return err
	}
	defer stop()
	a := aptRun{shared: dir, archs: w.archs, log: p.cfg.Output, root: true}
	private, err := disk.NewWork(p.cfg.Dir)
	if err != nil {
		return err
	}
	defer private.Close() //nolint:errcheck // the sweep takes it
	if a.private, err = layPrivate(private.Path, nil, nil, nil); err != nil {
		return disk.NoSpace(err, "the worker's disk")
	}
	proxy := "Acquire::http::Proxy=http://" + addr
	if _, err := a.run(ctx, "apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "-o", proxy, "-o", "Acquire::https::Proxy=http://"+addr, "update"); err != nil {
		return aptFailed(err, errs.Unavailable, CodeMirror, "the package lists cannot be read, or nobody whom the keyring knows has signed them")
	}
	if _, err := a.run(ctx, "apt-cache", "-q", "gencaches"); err != nil {
		return aptFailed(err, errs.Internal, CodeHost, "apt cannot index the package lists")
	}
	return nil
}
