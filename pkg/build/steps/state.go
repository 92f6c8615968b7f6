package steps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeMirror is the code of a package mirror that does not answer.
const CodeMirror = "kiln.build.mirror"

// maxIndex bounds a signed index, in bytes.
const maxIndex = 16 << 20

// Indexes are the digests of the signed indexes of a release, its updates and its security fixes: packages come from
// all three. errs.Invalid where the mirror has no such release, errs.Unavailable where it does not answer.
func Indexes(ctx context.Context, client *http.Client, m deb.Mirrors, release string) ([]build.Material, error) {
	security := m.Security
	if security == "" {
		security = m.Main
	}
	var out []build.Material
	for _, s := range []struct{ mirror, suite string }{{m.Main, release}, {m.Main, release + "-updates"}, {security, release + "-security"}} {
		digest, err := index(ctx, client, s.mirror, s.suite)
		if err != nil {
			return nil, err
		}
		out = append(out, build.Material{URI: s.mirror + "/dists/" + s.suite + "/InRelease", Digest: digest})
	}
	return out, nil
}

func index(ctx context.Context, client *http.Client, mirror, suite string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, mirror+"/dists/"+suite+"/InRelease", http.NoBody)
	if err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeMirror, "The mirror's address cannot be used.")
	}
	res, err := client.Do(req)
	if err != nil {
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror does not answer.")
	}
	defer res.Body.Close() //nolint:errcheck // only read
	switch {
	case res.StatusCode == http.StatusNotFound:
		return "", errs.New(errs.Invalid, CodeMirror, "The package mirror has no suite %q.", suite)
	case res.StatusCode != http.StatusOK:
		return "", errs.New(errs.Unavailable, CodeMirror, "The package mirror answers %s.", res.Status)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(res.Body, maxIndex)); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror's answer broke off.")
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// ToolVersion is the version of an installed Debian package, as a part of InputState.
func ToolVersion(ctx context.Context, name string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	out, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat=${Version}", name).Output()
	if err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "kiln.build.host", "The package %s is not installed on this worker.", name)
	}
	return strings.TrimSpace(string(out)), nil
}

// State is the words and the materials' digests as one word for InputState.
func State(materials []build.Material, words ...string) string {
	for _, m := range materials {
		words = append(words, m.Digest)
	}
	return strings.Join(words, " ")
}
