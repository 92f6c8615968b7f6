package native

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/locked"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// CodeLock is the code of a lock that does not fit its recipe, or of a recipe that cannot be locked.
const CodeLock = "kiln.build.lock"

// architecture is the one that images are built for.
const architecture = "amd64"

// Lock finds the packages that a build would install now: those of the base, the kernel, the boot loader and all
// steps. Of req it reads Recipe, WorkDir and Log.
func (b *Builder) Lock(ctx context.Context, req build.Request) (_ *deb.Lock, err error) {
	r := withDefaults(req.Recipe)
	if r.From.Release == "" {
		return nil, errs.New(errs.Invalid, CodeLock, "Only a recipe on a release can be locked. What stands on a family is pinned by the version that from.channel names.").
			At(errs.Where{File: r.Path, Field: "from.family"})
	}
	work, err := disk.NewWork(req.WorkDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := work.Close(); err == nil {
			err = closeErr
		}
	}()
	return locked.Solve(ctx, locked.Question{
		Release: r.From.Release, Packages: slices.Concat([]string{"apt", r.Kernel.Package}, base, bootPackagesOf(r), wantedOf(r)),
		Suites:  []deb.Suite{{Mirror: b.cfg.Mirrors.Main, Suite: r.From.Release, Components: []string{"main"}, Arch: architecture}},
		Keyring: b.cfg.Keyring, Proxy: b.cfg.Proxy.View(), Dir: work.Path, Log: req.Log,
	})
}

// pinned fills in what a lock says about a request: nothing of the image is younger than its packages.
func pinned(req build.Request) build.Request {
	if req.Lock != nil && req.Epoch.IsZero() {
		req.Epoch = req.Lock.Time
	}
	return req
}

// lockedRepository serves the packages of the lock and no others. They are brought when the first of them is needed.
func (b *Builder) lockedRepository(req build.Request, release string, proxy http.Handler) (*repository, error) {
	lock, file := req.Lock, recipe.LockPath(req.Recipe.Path)
	if lock.Release != release || lock.Architecture != architecture {
		return nil, errs.New(errs.Invalid, CodeLock, "The lock is of %s for %s, the recipe stands on %s for %s: make it again with kiln recipe lock.",
			lock.Release, lock.Architecture, release, architecture).At(errs.Where{File: file, Field: "release"})
	}
	repo := &repository{release: release, state: "lock " + lock.Digest(), materials: lockMaterials(lock, file)}
	repo.prepare = func(ctx context.Context) error {
		archive := locked.Archive{Dir: b.cfg.ArchiveDir, Mirrors: b.cfg.Mirrors, Upstream: proxy}
		if err := os.MkdirAll(archive.Dir, 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The archive of packages cannot be made.")
		}
		served, err := locked.Open(ctx, lock, archive, nil)
		if err != nil {
			if errs.CodeOf(err) == locked.CodeGone {
				return errs.Wrap(err, errs.Invalid, locked.CodeGone, "The lock cannot be built any more.").At(errs.Where{File: file})
			}
			return err
		}
		repo.handler, repo.source = served, served.Source()+"\n"
		return nil
	}
	return repo, nil
}

// lockMaterials are the packages of a lock, for the provenance.
func lockMaterials(lock *deb.Lock, file string) []build.Material {
	out := []build.Material{{URI: "kiln:lock/" + filepath.ToSlash(file), Digest: lock.Digest()}}
	for _, p := range lock.Packages {
		out = append(out, build.Material{URI: fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Name, p.Version, p.Architecture), Digest: "sha256:" + p.SHA256})
	}
	return out
}

// explainLock blames a lock that is older than its recipe.
func (m *making) explainLock(err error) error {
	if err == nil || m.req.Lock == nil {
		return err
	}
	for _, missing := range []string{"Unable to locate package", "has no installation candidate", "was not found", "Couldn't find any package"} {
		if strings.Contains(err.Error(), missing) {
			return errs.Wrap(err, errs.Invalid, CodeLock, "The lock lacks a package that the recipe asks for: make it again with kiln recipe lock.").
				At(errs.Where{File: recipe.LockPath(m.recipe.Path), Field: "packages"})
		}
	}
	return err
}

// bootPackagesOf make the boot files for the recipe's firmware.
func bootPackagesOf(r recipe.Recipe) []string {
	out := slices.Clone(bootPackages)
	if r.Disk.Firmware != "uefi" {
		out = append(out, "grub-pc-bin")
	}
	if withEFI(r) {
		out = append(out, "grub-efi-amd64-bin")
	}
	return out
}

// withEFI reports whether the disk gets an EFI system partition.
func withEFI(r recipe.Recipe) bool { return r.Disk.Firmware == "uefi" || r.Disk.Firmware == "both" }

// wantedOf are the packages of all steps.
func wantedOf(r recipe.Recipe) []string {
	var out []string
	for _, s := range r.Plan {
		out = append(out, s.Packages...)
		if len(s.Datasources) > 0 {
			out = append(out, "cloud-init")
		}
	}
	return out
}
