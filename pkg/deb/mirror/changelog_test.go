package mirror_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const changelog = `openssl (3.0.17-1) bookworm-security; urgency=high

  * Fix CVE-2026-1234.

 -- A Developer <dev@example.org>  Sun, 01 Mar 2026 12:00:00 +0000
`

func packed(t *testing.T, ext string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w interface {
		Write([]byte) (int, error)
		Close() error
	}
	var err error
	switch ext {
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// debFile is a .deb with these files (deb(5)).
func debFile(t *testing.T, ext string, files map[string]string) []byte {
	t.Helper()
	var data bytes.Buffer
	tw := tar.NewWriter(&data)
	for name, text := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBufferString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {"data.tar" + ext, packed(t, ext, data.Bytes())}} {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func TestChangelogsComeThroughTheProxy(t *testing.T) {
	u := newUpstream(t)
	files := map[string][]byte{}
	u.answers(func(w http.ResponseWriter, r *http.Request) {
		if data, ok := files[r.URL.Path]; ok {
			_, _ = w.Write(data)
			return
		}
		http.NotFound(w, r)
	})
	p, err := mirror.New(mirror.Config{Upstreams: []string{u.URL + "/debian"}, Dir: t.TempDir(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	candidate := func(name string, data []byte) deb.Candidate {
		files["/debian/pool/"+name] = data
		sum := sha256.Sum256(data)
		return deb.Candidate{Name: "openssl", Filename: "pool/" + name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
	}
	text := map[string]string{"./usr/bin/x": "x", "./usr/share/doc/openssl/changelog.Debian.gz": string(packed(t, ".gz", []byte(changelog)))}
	for _, ext := range []string{".gz", ".xz", ".zst", ""} {
		entries, err := p.Changelog(t.Context(), u.URL+"/debian/", candidate("openssl"+ext+".deb", debFile(t, ext, text)))
		if err != nil || len(entries) != 1 || entries[0].Urgency != "high" || deb.CVEs(entries)[0] != "CVE-2026-1234" {
			t.Errorf("%s: %+v, %v", ext, entries, err)
		}
	}
	native := candidate("native.deb", debFile(t, ".gz", map[string]string{"./usr/share/doc/native/changelog.gz": string(packed(t, ".gz", []byte(changelog)))}))
	asked := u.requests.Load()
	for range 2 {
		if entries, err := p.Changelog(t.Context(), u.URL+"/debian", native); err != nil || len(entries) != 1 {
			t.Errorf("a native package: %v, %v", entries, err)
		}
	}
	if n := u.requests.Load() - asked; n != 1 {
		t.Errorf("fetched %d times", n)
	}
	good := debFile(t, ".gz", text)
	other := candidate("other.deb", good)
	other.SHA256 = strings.Repeat("0", 64)
	longer := candidate("longer.deb", good)
	longer.Size--
	for name, c := range map[string]struct {
		candidate deb.Candidate
		code      string
	}{
		"none":        {candidate("none.deb", debFile(t, ".gz", map[string]string{"./usr/share/doc/none/copyright": "c"})), "kiln.advisory.changelog_missing"},
		"not there":   {deb.Candidate{Filename: "pool/gone.deb"}, "kiln.advisory.package_missing"},
		"another":     {other, "kiln.advisory.package_mismatch"},
		"not a .deb":  {candidate("odd.deb", []byte("!<arch>?")), "kiln.advisory.package_malformed"},
		"cut":         {candidate("cut.deb", good[:230]), "kiln.advisory.package_malformed"},
		"elsewhere":   {deb.Candidate{Filename: "../etc/passwd"}, "kiln.advisory.mirror_unavailable"},
		"longer":      {longer, "kiln.advisory.package_mismatch"},
		"compression": {candidate("lzma.deb", debFile(t, ".lzma", text)), "kiln.advisory.package_malformed"},
	} {
		if _, err := p.Changelog(t.Context(), u.URL+"/debian", c.candidate); errs.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

func FuzzPackagedChangelog(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = deb.PackagedChangelog(bytes.NewReader(data))
	})
}
