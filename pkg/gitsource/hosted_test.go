package gitsource_test

import (
	"bytes"
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
)

// shelf keeps repositories as the database does, by source id.
type shelf map[string]build.Repository

func (s shelf) FindRepository(_ context.Context, id string, _ bool) (build.Repository, error) {
	r, ok := s[id]
	if !ok {
		return r, errs.New(errs.NotFound, "kiln.source.not_found", "no source")
	}
	return r, nil
}

func (shelf) ChangeRepository(context.Context, string, int64, build.RepositoryChange) error {
	return nil
}

// hosted is the repository as Kiln would keep it after a push of everything.
func hosted(t *testing.T, r repository) build.Repository {
	t.Helper()
	var hashes []plumbing.Hash
	objects, err := r.repo.Storer.IterEncodedObjects(plumbing.AnyObject)
	if err != nil {
		t.Fatal(err)
	}
	err = objects.ForEach(func(o plumbing.EncodedObject) error {
		hashes = append(hashes, o.Hash())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var pack bytes.Buffer
	if _, err := packfile.NewEncoder(&pack, r.repo.Storer, false).Encode(hashes, 10); err != nil {
		t.Fatal(err)
	}
	out := build.Repository{Version: 1, Packs: []build.Pack{{Seq: 1, Data: pack.Bytes()}}}
	refs, err := r.repo.References()
	if err != nil {
		t.Fatal(err)
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() == plumbing.HashReference {
			out.Refs = append(out.Refs, build.Ref{Name: ref.Name().String(), Hash: ref.Hash().String()})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestContract is what every way to a source's files does: remote ones and those that Kiln hosts.
func TestContract(t *testing.T) {
	r := newRepository(t)
	store := shelf{"images": hosted(t, r), "empty": {}}
	type way struct {
		url, none string
		fetch     func(ctx context.Context, url, ref, dir string) (gitsource.Checkout, error)
	}
	for name, w := range map[string]way{
		"remote": {r.dir, t.TempDir(), gitsource.Fetcher{AllowLocal: true}.Fetch},
		"hosted": {build.HostedURL("images"), build.HostedURL("none"), gitsource.Hosted{Store: store}.Fetch},
	} {
		t.Run(name, func(t *testing.T) {
			for ref, want := range map[string]plumbing.Hash{
				"": r.second, "main": r.second, "refs/heads/main": r.second, "v1": r.first, "refs/tags/v1": r.first, r.second.String(): r.second,
			} {
				co, err := w.fetch(t.Context(), w.url, ref, t.TempDir())
				if err != nil || co.Commit != want.String() {
					t.Errorf("ref %q: commit %s instead of %s, %v", ref, co.Commit, want, err)
					continue
				}
				text, err := fs.ReadFile(co.Files, "recipes/web.yaml")
				if err != nil || want == r.second && string(text) != "name: web-2\n" {
					t.Errorf("ref %q: web.yaml is %q, %v", ref, text, err)
				}
				if text, err := fs.ReadFile(co.Files, "outside"); err == nil {
					t.Errorf("a link that leaves the repository gave %q", text)
				}
				if err := co.Close(); err != nil {
					t.Error(err)
				}
			}
			for ref, code := range map[string]string{"none": "kiln.source.ref", strings.Repeat("ab", 20): "kiln.source.ref", "../../x": "kiln.source.ref"} {
				_, err := w.fetch(t.Context(), w.url, ref, t.TempDir())
				if errs.CodeOf(err) != code || !errs.Is(err, errs.Invalid) {
					t.Errorf("ref %q: %v", ref, err)
				}
			}
			if _, err := w.fetch(t.Context(), w.none, "", t.TempDir()); errs.CodeOf(err) != "kiln.source.not_found" || !errs.Is(err, errs.Invalid) {
				t.Errorf("no repository: %v", err)
			}
		})
	}
	if _, err := (gitsource.Hosted{Store: store}).Fetch(t.Context(), build.HostedURL("empty"), "", t.TempDir()); errs.CodeOf(err) != "kiln.source.empty" {
		t.Errorf("before the first push: %v", err)
	}
}

// A pack that was cut, changed or made to burst is refused before anything is unpacked.
func TestPacksThatAreNone(t *testing.T) {
	whole := hosted(t, newRepository(t)).Packs[0].Data
	changed := bytes.Clone(whole)
	changed[len(changed)/2] ^= 1
	for name, data := range map[string][]byte{"empty": nil, "cut": whole[:len(whole)-7], "changed": changed, "text": []byte(strings.Repeat("PACK", 20))} {
		o, err := packs.Open(build.Repository{}, packs.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Add(data); errs.CodeOf(err) != "kiln.git.pack" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, l := range []packs.Limits{{MaxObjects: 2}, {MaxInflated: 10}} {
		if _, err := packs.Open(build.Repository{Packs: []build.Pack{{Data: whole}}}, l); errs.CodeOf(err) != "kiln.git.too_large" {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
