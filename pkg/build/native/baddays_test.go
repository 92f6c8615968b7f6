package native_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// hostile is a builder as builder gives it, with a time limit that a test can wait for and a transport of its own.
func hostile(t *testing.T, transport http.RoundTripper) *native.Builder {
	t.Helper()
	builder(t) // has what all share
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	p := proxy
	if transport != nil {
		if p, err = mirror.New(mirror.Config{Upstreams: []string{mirrors.Main}, Dir: t.TempDir(), Transport: transport}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
	}
	b, err := native.New(native.Config{Mirrors: mirrors, Proxy: p, StepTime: 40 * time.Second, Backoff: time.Millisecond, Layers: layer.Config{Dir: layersDir(t)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostileScriptsAreStopped: each is stopped, the log and the error name its step and its place, and the host has
// what it had.
func TestHostileScriptsAreStopped(t *testing.T) {
	usual := builder(t)
	t.Parallel()
	if _, log, err := construct(t, usual, "name: warm\nfrom: {release: bookworm}\ndisk: {size: 3GiB}\n", "", false); err != nil {
		t.Fatalf("%v\n%s", err, log) // the base, which takes longer than the limit below
	}
	b := hostile(t, nil)
	host, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ script, code, says string }{
		"forks":    {`bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done`, native.CodeScript, "1024 processes"},
		"fills":    {`fallocate -l 2G /srv/a; dd if=/dev/zero of=/srv/b bs=1M`, native.CodeDiskSize, "No space left"},
		"for ever": {`while :; do sleep 1; done`, native.CodeScript, "ran longer than 40s"},
		"network":  {`bash -c 'echo >/dev/tcp/192.0.2.1/80'`, native.CodeScript, "unreachable"},
		"mounts":   {`mount -t tmpfs none /mnt`, native.CodeScript, "exit code"},
		"devices":  {`mknod /srv/disk b 7 0`, native.CodeScript, "not permitted"},
		"settings": {`echo '|/bin/false' >/proc/sys/kernel/core_pattern`, native.CodeScript, "Read-only"},
		"escapes":  {`mkdir -p /srv/jail; perl -e 'mkdir "/srv/jail/x"; chroot "/srv/jail/x"; chdir ".." for 1..64; chroot "."; exit(-e "/etc/hostname" && -e "/srv/jail" ? 3 : 4)'`, native.CodeScript, "exit code 3"},
		"unshares": {`unshare --mount true`, native.CodeScript, "not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, log, err := construct(t, b, "name: bad\nfrom: {release: bookworm}\ndisk: {size: 3GiB}\nsteps:\n  - name: the bad one\n    run: |\n      "+c.script+"\n", "", false)
			var e *errs.Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "the bad one") {
				t.Errorf("%v\n%.500s", err, log)
			}
			if e != nil && c.code == native.CodeScript && (e.Where.Field != "steps[0]" || e.Where.File != "recipes/tls.yaml") {
				t.Errorf("at %v", e.Where)
			}
			if !strings.Contains(log, "== the bad one") {
				t.Errorf("the log does not name the step:\n%.500s", log)
			}
		})
	}
	t.Cleanup(func() {
		if now, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || !bytes.Equal(now, host) {
			t.Errorf("the host has another core_pattern: %q %v", now, err)
		}
	})
}

// cutting breaks off the answers of packages of a name.
type cutting struct {
	name  string
	times int64
	asked atomic.Int64
}

func (c *cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && strings.Contains(r.URL.Path, "/"+c.name+"_") && c.asked.Add(1) <= c.times {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, 1000), res.Body}
	}
	return res, err
}

func TestAMirrorThatBreaksOffIsAskedAgain(t *testing.T) {
	builder(t)
	t.Parallel()
	text := "name: cut\nfrom: {release: bookworm}\ndisk: {size: 3GiB}\npackages: [jq]\n"
	always := &cutting{name: "jq", times: 1 << 30}
	_, log, err := construct(t, hostile(t, always), text, "", false)
	if errs.CodeOf(err) != native.CodeMirror || !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "broke off") || always.asked.Load() < 3 {
		t.Errorf("asked %d times: %v\n%.2000s", always.asked.Load(), err, log)
	}
	once := &cutting{name: "jq", times: 2}
	if _, log, err := construct(t, hostile(t, once), text, "", false); err != nil {
		t.Errorf("%v\n%.2000s", err, log)
	}
}

func TestABadSignatureIsAClearReason(t *testing.T) {
	builder(t)
	t.Parallel()
	keyring := filepath.Join(t.TempDir(), "trusted.gpg")
	trusted, err := openpgp.NewEntity("Trusted", "", "t@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := trusted.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyring, public.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	stranger, err := openpgp.NewEntity("Stranger", "", "s@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, stranger.PrivateKey, nil)
	if err == nil {
		_, err = io.WriteString(w, "Suite: stable\nCodename: bookworm\nDate: "+time.Now().UTC().Format(time.RFC1123)+"\nSHA256:\n")
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/InRelease") {
			http.NotFound(w, r)
			return
		}
		asked.Add(1)
		w.Write(signed.Bytes())
	}))
	defer srv.Close()
	p, err := mirror.New(mirror.Config{Upstreams: []string{srv.URL + "/debian"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := native.New(native.Config{Mirrors: deb.Mirrors{Main: srv.URL + "/debian"}, Proxy: p, Keyring: keyring, Backoff: time.Millisecond, Layers: layer.Config{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err = b.Build(t.Context(), build.Request{Recipe: parse(t, "name: bad\nfrom: {release: bookworm}\n"), WorkDir: dir, Output: filepath.Join(dir, "out.qcow2")})
	if errs.CodeOf(err) != native.CodeMirror || !strings.Contains(err.Error(), "nobody trusted has signed") || asked.Load() < 4 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	if left := left(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
