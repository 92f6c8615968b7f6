package deb_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// repository is a small signed repository over HTTP.
type repository struct {
	t       *testing.T
	key     *openpgp.Entity
	keyring string
	files   map[string][]byte
	bytes   atomic.Int64
	url     string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{t: t, files: map[string][]byte{}}
	r.key = newKey(t)
	r.keyring = filepath.Join(t.TempDir(), "keys.gpg")
	var keys bytes.Buffer
	if err := r.key.Serialize(&keys); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.keyring, keys.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		data, ok := r.files[strings.TrimPrefix(req.URL.Path, "/")]
		if !ok {
			http.NotFound(w, req)
			return
		}
		tag := fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(data)))
		w.Header().Set("ETag", tag)
		if req.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		r.bytes.Add(int64(len(data)))
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, Time: func() time.Time { return epoch.AddDate(-1, 0, 0) }}
	key, err := openpgp.NewEntity("archive", "", "archive@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// publish writes the suite's list and a release signed by the key.
func (r *repository) publish(key *openpgp.Entity, packages, validUntil string) {
	r.t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(packages)); err != nil {
		r.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		r.t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(packed.Bytes()))
	r.files["dists/stable/main/binary-amd64/by-hash/SHA256/"+sum] = packed.Bytes()
	r.sign(key, fmt.Sprintf("Suite: stable\nCodename: test\nDate: %s\n%sAcquire-By-Hash: yes\nSHA256:\n %s %d main/binary-amd64/Packages.gz\n",
		epoch.Format(time.RFC1123), validUntil, sum, packed.Len()))
}

func (r *repository) sign(key *openpgp.Entity, text string) {
	r.t.Helper()
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return epoch }})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.files["dists/stable/InRelease"] = signed.Bytes()
}

func (r *repository) client(now time.Time) *deb.Client {
	r.t.Helper()
	c, err := deb.NewClient(deb.ClientConfig{Dir: r.t.TempDir(), Keyring: r.keyring, Now: func() time.Time { return now }, Timeout: 5 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *repository) fetch(c *deb.Client) (*deb.Index, error) {
	return c.Fetch(r.t.Context(), deb.Suite{Mirror: r.url, Suite: "stable", Components: []string{"main"}, Arch: "amd64"})
}

const packages = "Package: openssl\nVersion: 2.0\nArchitecture: amd64\nFilename: pool/o.deb\nSize: 12\nSHA256: ab\n"

func TestFetch(t *testing.T) {
	r := newRepository(t)
	r.publish(r.key, packages, "")
	c := r.client(epoch)
	ix, err := r.fetch(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := ix.Find("openssl"); ix.Len() != 1 || len(got) != 1 || got[0].Version != "2.0" || got[0].Size != 12 || ix.Codename != "test" {
		t.Errorf("%+v", got)
	}
	moved := r.bytes.Load()
	if _, err := r.fetch(c); err != nil || r.bytes.Load() != moved {
		t.Errorf("an unchanged suite moved %d bytes: %v", r.bytes.Load()-moved, err)
	}
	r.publish(r.key, strings.Replace(packages, "2.0", "2.1", 1), "")
	if ix, err = r.fetch(c); err != nil || ix.Find("openssl")[0].Version != "2.1" {
		t.Errorf("the new list is not seen: %v", err)
	}
}

func TestFetchRefuses(t *testing.T) {
	other := newKey(t)
	cases := map[string]struct {
		code  string
		spoil func(r *repository)
	}{
		"another key":  {"kiln.advisory.release_unsigned", func(r *repository) { r.publish(other, packages, "") }},
		"changed text": {"kiln.advisory.release_unsigned", func(r *repository) { r.edit("Codename: test", "Codename: evil") }},
		"text before": {"kiln.advisory.release_unsigned", func(r *repository) {
			r.files["dists/stable/InRelease"] = append([]byte("Suite: stable\n"), r.files["dists/stable/InRelease"]...)
		}},
		"text after": {"kiln.advisory.release_unsigned", func(r *repository) {
			r.files["dists/stable/InRelease"] = append(r.files["dists/stable/InRelease"], "Suite: stable\n"...)
		}},
		"no signature": {"kiln.advisory.release_unsigned", func(r *repository) { r.files["dists/stable/InRelease"] = []byte("Suite: stable\n") }},
		"expired": {"kiln.advisory.release_expired", func(r *repository) {
			r.publish(r.key, packages, "Valid-Until: Sun, 01 Mar 2026 11:00:00 UTC\n")
		}},
		"another suite": {"kiln.advisory.release_other", func(r *repository) { r.sign(r.key, "Suite: old\nCodename: older\n") }},
		"future": {"kiln.advisory.release_future", func(r *repository) {
			r.sign(r.key, "Suite: stable\nDate: Mon, 02 Mar 2026 11:00:00 UTC\n")
		}},
		"no list": {"kiln.advisory.list_missing", func(r *repository) { r.sign(r.key, "Suite: stable\n") }},
		"changed list": {"kiln.advisory.list_mismatch", func(r *repository) {
			for name, data := range r.files {
				if strings.Contains(name, "by-hash") {
					data[len(data)-1] ^= 1
				}
			}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			r.publish(r.key, packages, "")
			good := r.files["dists/stable/InRelease"]
			c.spoil(r)
			client := r.client(epoch)
			ix, err := r.fetch(client)
			if errs.CodeOf(err) != c.code || ix != nil {
				t.Fatalf("index %v, error %v, want %s", ix, err, c.code)
			}
			if name == "changed list" {
				return
			}
			r.files["dists/stable/InRelease"] = good
			if _, err := r.fetch(client); err != nil {
				t.Errorf("after the mirror was mended: %v", err)
			}
		})
	}
}

// A mirror that goes back to an older release does not take back what is known.
func TestFetchGoesNotBack(t *testing.T) {
	r := newRepository(t)
	r.publish(r.key, packages, "")
	old := r.files["dists/stable/InRelease"]
	r.publish(r.key, strings.Replace(packages, "2.0", "2.1", 1), "")
	r.resign("Date: "+epoch.Format(time.RFC1123), "Date: "+epoch.Add(time.Minute).Format(time.RFC1123))
	c := r.client(epoch)
	for _, release := range [][]byte{r.files["dists/stable/InRelease"], old} {
		r.files["dists/stable/InRelease"] = release
		ix, err := r.fetch(c)
		if err != nil || ix.Find("openssl")[0].Version != "2.1" {
			t.Fatalf("%+v, %v", ix, err)
		}
	}
}

// A mirror that dies in the middle of an answer gives an error, and the next try is whole.
func TestFetchFromAMirrorThatDies(t *testing.T) {
	for _, file := range []string{"InRelease", "by-hash"} {
		r := newRepository(t)
		r.publish(r.key, packages, "")
		good := r.url
		dying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			data := r.files[strings.TrimPrefix(req.URL.Path, "/")]
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			if strings.Contains(req.URL.Path, file) {
				data = data[:len(data)/2]
			}
			_, _ = w.Write(data)
		}))
		t.Cleanup(dying.Close)
		c := r.client(epoch)
		if _, err := c.Fetch(t.Context(), deb.Suite{Mirror: dying.URL, Suite: "stable", Components: []string{"main"}, Arch: "amd64"}); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
		r.url = good
		if _, err := r.fetch(c); err != nil {
			t.Errorf("%s, afterwards: %v", file, err)
		}
	}
}

// resign changes the text of the release and signs it again.
func (r *repository) resign(old, text string) {
	r.t.Helper()
	block, _ := clearsign.Decode(r.files["dists/stable/InRelease"])
	r.sign(r.key, strings.Replace(string(block.Plaintext), old, text, 1))
}

func (r *repository) edit(old, text string) {
	const name = "dists/stable/InRelease"
	r.files[name] = bytes.Replace(r.files[name], []byte(old), []byte(text), 1)
}

func TestFetchFromNowhere(t *testing.T) {
	r := newRepository(t)
	r.url = "http://127.0.0.1:1"
	if _, err := r.fetch(r.client(epoch)); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.client(epoch).Fetch(ctx, deb.Suite{Mirror: r.url, Suite: "x"}); !errs.Is(err, errs.Cancelled) {
		t.Error(err)
	}
}

// TestFetchDebian reads the machine's own mirror with Debian's own keys.
func TestFetchDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the machine's Debian mirror")
	}
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	c, err := deb.NewClient(deb.ClientConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for suite, mirror := range map[string]string{"bookworm-updates": mirrors.Main, "bookworm-security": mirrors.Security} {
		ix, err := c.Fetch(ctx, deb.Suite{Mirror: mirror, Suite: suite, Components: []string{"main"}, Arch: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s of %s: %d packages", suite, ix.Date.Format(time.DateOnly), ix.Len())
		if suite == "bookworm-security" && len(ix.Find("openssl")) == 0 {
			t.Error("no openssl in the security suite")
		}
	}
}
