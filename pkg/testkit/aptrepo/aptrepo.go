// Package aptrepo is a small signed package repository for tests. Its packages are made in memory, it answers as a mirror
// or as a forward proxy, and it can be broken in the ways that mirrors break.
package aptrepo

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Base is where the repository seems to be: no request leaves the process.
const Base = "http://mirror.example.org/debian"

// Repository is one mirror with any number of suites, all of component main and architecture amd64. Change its fields
// only while nobody asks it.
type Repository struct {
	Keyring string    // file with the key that signs the suites
	Date    time.Time // of the suites' Release

	t   testing.TB
	key *openpgp.Entity

	mu      sync.Mutex
	files   map[string][]byte        // by path below Base
	indexes map[string]*bytes.Buffer // Packages by suite
	asked   []string
	broken  func(path string) int
}

// New makes an empty repository with a key of its own.
func New(t testing.TB) *Repository {
	t.Helper()
	r := &Repository{
		t: t, files: map[string][]byte{}, indexes: map[string]*bytes.Buffer{},
		Keyring: filepath.Join(t.TempDir(), "keys.gpg"), Date: time.Now().Add(-time.Hour).UTC().Truncate(time.Second),
	}
	r.NewKey()
	var keys bytes.Buffer
	if err := errors.Join(r.key.Serialize(&keys), os.WriteFile(r.Keyring, keys.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return r
}

// NewKey makes the next Publish sign by a key that is not in the keyring.
func (r *Repository) NewKey() {
	r.t.Helper()
	begin := r.Date.Add(-24 * time.Hour)
	key, err := openpgp.NewEntity("archive", "", "archive@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, Time: func() time.Time { return begin }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.key = key
}

// Add puts a package into a suite, after its files' name in the pool is given back. It is seen after the next Publish.
func (r *Repository) Add(suite string, p Package) string {
	r.t.Helper()
	data, err := p.Build()
	if err != nil {
		r.t.Fatal(err)
	}
	file := fmt.Sprintf("pool/main/%s_%s_%s.deb", p.Name, p.Version[strings.Index(p.Version, ":")+1:], p.architecture())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[file] = data
	if r.indexes[suite] == nil {
		r.indexes[suite] = &bytes.Buffer{}
	}
	fmt.Fprintf(r.indexes[suite], "%sFilename: %s\nSize: %d\nSHA256: %x\n\n", p.control(), file, len(data), sha256.Sum256(data))
	return file
}

// Publish signs what was added to a suite. fields are further lines of its Release, each with its newline.
func (r *Repository) Publish(suite, fields string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.indexes[suite] == nil {
		r.indexes[suite] = &bytes.Buffer{}
	}
	index := bytes.Clone(r.indexes[suite].Bytes())
	r.files["dists/"+suite+"/main/binary-amd64/Packages"] = index
	text := fmt.Sprintf("Origin: test\nSuite: %[1]s\nCodename: %[1]s\nDate: %[2]s\n%[3]sArchitectures: amd64\nComponents: main\nSHA256:\n %[4]x %[5]d main/binary-amd64/Packages\n",
		suite, r.Date.UTC().Format(time.RFC1123), fields, sha256.Sum256(index), len(index))
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, r.key.PrivateKey, nil)
	if err == nil {
		_, err = io.WriteString(w, text)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.files["dists/"+suite+"/InRelease"] = b.Bytes()
}

// File is what the repository has under a path below Base.
func (r *Repository) File(path string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.files[path])
}

// SetFile replaces a file; nil removes it.
func (r *Repository) SetFile(path string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data == nil {
		delete(r.files, path)
		return
	}
	r.files[path] = data
}

// Forget removes all files, as a mirror does that moved on.
func (r *Repository) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.files)
}

// Asked are the paths that were asked for so far.
func (r *Repository) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}

// Break makes answers end early: after says after how many bytes of a path's answer the connection breaks; negative for not at all.
func (r *Repository) Break(after func(path string) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = after
}

// ServeHTTP answers a request for an absolute address, as a forward proxy is asked.
func (r *Repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.URL.Path, "/debian/")
	r.mu.Lock()
	data, ok := r.files[name]
	r.asked = append(r.asked, name)
	r.mu.Unlock()
	if !ok || req.URL.Host != "mirror.example.org" {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(data)
}

// RoundTrip answers like ServeHTTP, and breaks off where Break says so.
func (r *Repository) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	res := w.Result()
	res.ContentLength = int64(w.Body.Len())
	r.mu.Lock()
	broken := r.broken
	r.mu.Unlock()
	if broken == nil {
		return res, nil
	}
	if n := broken(strings.TrimPrefix(req.URL.Path, "/debian/")); n >= 0 && int64(n) < res.ContentLength {
		res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(w.Body.Bytes()[:n]), cut{}))
	}
	return res, nil
}

// cut is the end of a connection that broke.
type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
