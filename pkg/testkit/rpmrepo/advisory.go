package rpmrepo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Advisory is an entry of the repository's updateinfo.
type Advisory struct {
	ID       string
	Type     string // security, bugfix, enhancement
	Severity string // Critical, Important, Moderate, Low
	CVEs     []string
	Packages []Package // of which the name, the version and the epoch count
}

// Advise adds an entry to the updateinfo, which the repository has from the next Publish on.
func (r *Repository) Advise(a Advisory) { r.advisories = append(r.advisories, a) }

// updateinfo writes the file (https://github.com/rpm-software-management/createrepo_c) and gives its path.
func (r *Repository) updateinfo() string {
	r.t.Helper()
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<updates>\n")
	for _, a := range r.advisories {
		fmt.Fprintf(&b, "<update from=\"a@example.org\" status=\"final\" type=%q version=\"1\"><id>%s</id><title>%[2]s</title><issued date=\"2026-11-02 10:00:00\"/><severity>%s</severity><references>\n",
			a.Type, a.ID, a.Severity)
		for _, id := range a.CVEs {
			fmt.Fprintf(&b, "<reference href=\"https://example.org/%s\" id=%[1]q type=\"cve\" title=%[1]q/>\n", id)
		}
		b.WriteString("</references><pkglist><collection short=\"c\"><name>c</name>\n")
		for _, p := range a.Packages {
			epoch := "0"
			if _, rest, ok := strings.Cut(p.Fields, "Epoch: "); ok {
				epoch, _, _ = strings.Cut(rest, "\n")
			}
			fmt.Fprintf(&b, "<package name=%q version=%q release=\"1\" epoch=%q arch=%q src=\"\"><filename>%[1]s-%[2]s-1.%[4]s.rpm</filename></package>\n", p.Name, p.Version, epoch, r.Arch())
		}
		b.WriteString("</collection></pkglist></update>\n")
	}
	b.WriteString("</updates>\n")
	path := filepath.Join(r.work, "updateinfo.xml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// Arch is the architecture of packages that rpmbuild makes here.
func (r *Repository) Arch() string {
	r.t.Helper()
	return strings.TrimSpace(string(r.run("rpm", "--eval", "%{_target_cpu}")))
}
