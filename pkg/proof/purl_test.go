package proof_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// TestPackageURLs: scanners find a package by its URL, whose rules differ between kinds of packages.
func TestPackageURLs(t *testing.T) {
	for _, way := range []struct {
		kind, os string
		p        catalog.Package
		want     []string
	}{
		{"rpm", "almalinux", catalog.Package{Name: "openssl-libs", Version: "1:3.0.7-24.el9", Architecture: "x86_64", Source: "openssl"},
			[]string{"pkg:rpm/almalinux/openssl-libs@3.0.7-24.el9?arch=x86_64&distro=almalinux-9&epoch=1&upstream=openssl-3.0.7-24.el9.src.rpm", "pkg:rpm/almalinux/openssl@3.0.7-24.el9?arch=src&distro=almalinux-9&epoch=1"}},
		{"rpm", "almalinux", catalog.Package{Name: "NetworkManager", Version: "1.48-2", Architecture: "noarch", Source: "NetworkManager"},
			[]string{"pkg:rpm/almalinux/NetworkManager@1.48-2?arch=noarch&distro=almalinux-9", "pkg:rpm/almalinux/NetworkManager@1.48-2?arch=src&distro=almalinux-9"}},
		{"apk", "alpine", catalog.Package{Name: "ssl_client", Version: "1.36.1-r29", Architecture: "x86_64", Source: "busybox"},
			[]string{"pkg:apk/alpine/ssl_client@1.36.1-r29?arch=x86_64&distro=alpine-9&upstream=busybox"}},
		{"", "debian", catalog.Package{Name: "libssl3", Version: "3.0.17-1", Architecture: "amd64", Source: "openssl"},
			[]string{"pkg:deb/debian/libssl3@3.0.17-1?arch=amd64&distro=debian-9&upstream=openssl"}},
	} {
		in := input(t)
		in.Facts = &catalog.Facts{PackageKind: way.kind, OS: catalog.OSRelease{ID: way.os, VersionID: "9"}, Packages: []catalog.Package{way.p}}
		docs, _, err := proof.Make(t.Context(), in, signer(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range way.want {
			escaped := strings.ReplaceAll(want, "&", `\u0026`)
			if !slices.ContainsFunc(docs, func(d proof.Document) bool {
				text, err := d.Text()
				return err == nil && (strings.Contains(string(text), `"`+want+`"`) || strings.Contains(string(text), `"`+escaped+`"`))
			}) {
				t.Errorf("no document names %s", want)
			}
		}
	}
}
