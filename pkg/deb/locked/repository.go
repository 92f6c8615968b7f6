package locked

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// parallel is how many packages are brought at once.
const parallel = 6

// Repository serves the packages of a lock, and no others, as one suite of an apt repository at the address of the
// main mirror. It is an http.Handler for a forward proxy's requests.
//
// Its index is not signed: it is made in this process from files that each have the hash of the lock, and serves on
// loopback only. apt's source for it says trusted=yes (see Source).
type Repository struct {
	base  string // "/debian": the path of the mirror
	host  string
	text  map[string][]byte // by path below base
	files map[string]string // by path below base: the file in the archive
	line  string
}

// Open brings every package of the lock into the archive and makes the index. progress may be nil.
func Open(ctx context.Context, lock *deb.Lock, a Archive, progress func(done, total int64)) (*Repository, error) {
	paths := make([]string, len(lock.Packages))
	stanzas := make([][]byte, len(lock.Packages))
	done := make(chan struct{}, len(lock.Packages))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range lock.Packages {
		g.Go(func() (err error) {
			if paths[i], err = a.Bring(inner, p); err != nil {
				return err
			}
			stanzas[i], err = stanza(p, paths[i])
			done <- struct{}{}
			if progress != nil {
				progress(int64(len(done)), int64(len(lock.Packages)))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	mirror := strings.TrimRight(a.Mirrors.Main, "/")
	_, rest, _ := strings.Cut(mirror, "://")
	host, base, _ := strings.Cut(rest, "/")
	r := &Repository{host: host, text: map[string][]byte{}, files: map[string]string{}}
	if base != "" {
		r.base = "/" + base
	}
	for i, p := range lock.Packages {
		r.files["/"+p.Filename] = paths[i]
	}
	index := bytes.Join(stanzas, nil)
	dists := "/dists/" + lock.Release + "/"
	list := "main/binary-" + lock.Architecture + "/Packages"
	r.text[dists+list] = index
	sum := sha256.Sum256(index)
	r.text[dists+"Release"] = fmt.Appendf(nil, "Origin: Debian\nLabel: Debian\nSuite: %[1]s\nCodename: %[1]s\nDate: %[2]s\nArchitectures: %[3]s\nComponents: main\nSHA256:\n %[4]s %[5]d %[6]s\n",
		lock.Release, lock.Time.UTC().Format(time.RFC1123), lock.Architecture, hex.EncodeToString(sum[:]), len(index), list)
	r.line = fmt.Sprintf("deb [trusted=yes] %s %s main", mirror, lock.Release)
	return r, nil
}

// Source is the line of sources.list for the repository.
func (r *Repository) Source() string { return r.line }

// stanza is a package's paragraph in the index: its control file, where it is, and its hash.
func stanza(p deb.LockedPackage, path string) ([]byte, error) {
	text, err := control(path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodeArchive, "The locked package %s cannot be read.", p.Name)
	}
	return fmt.Appendf(text, "\nFilename: %s\nSize: %d\nSHA256: %s\n\n", p.Filename, p.Size, p.SHA256), nil
}

// ServeHTTP answers for what is locked; everything else is not there.
func (r *Repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, ok := strings.CutPrefix(req.URL.Path, r.base)
	switch {
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		http.Error(w, "only GET and HEAD are served", http.StatusMethodNotAllowed)
	case !ok || !strings.EqualFold(req.URL.Host, r.host):
		http.Error(w, req.URL.String()+" is not of this lock", http.StatusForbidden)
	case r.text[name] != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(r.text[name]))
	case r.files[name] != "":
		w.Header().Set("Content-Type", "application/vnd.debian.binary-package")
		http.ServeFile(w, req, r.files[name])
	default:
		http.Error(w, req.URL.Path+" is not in the lock", http.StatusNotFound)
	}
}
