package functional

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
)

// smallDisk is a disk that has what reading it looks for: a release and a package, but no dpkg, so that its architecture
// is not known. TestRealStory comes after it: one such image must not hold up the advisories of the others.
func smallDisk(t *testing.T) []byte {
	t.Helper()
	tree := t.TempDir()
	for path, text := range map[string]string{
		"usr/lib/os-release":  "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"etc/debian_version":  "12.9\n",
		"var/lib/dpkg/status": "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.11-1~deb12u1\n\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "disk")
	if _, err := command(t.Context(), []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, image, "16m"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// uploaded is an image that a user gave to Glance without Kiln.
func (s *stand) uploaded(t *testing.T, user string, data []byte) catalog.GlanceImage {
	t.Helper()
	g := glance.New(s.login(t, user))
	img, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: t.Name(), DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private",
	})
	if err == nil {
		err = g.Upload(t.Context(), img.ID, bytes.NewReader(data), int64(len(data)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestRealNotifications(t *testing.T) {
	s := kiln(t)
	img := s.uploaded(t, "member", smallDisk(t))
	began := time.Now()
	member := s.as(t, "member")
	var row catalog.Image
	err := until(t.Context(), time.Minute, "the uploaded image is in Kiln with its facts", func(ctx context.Context) (bool, error) {
		rows, err := client.List[catalog.Image](ctx, member, "images", nil)
		for _, r := range rows {
			if r.ID == img.ID {
				row = r
			}
		}
		return row.State == catalog.Inspected, err
	})
	if err != nil {
		t.Fatalf("%v; the newest row is %+v", err, row)
	}
	t.Logf("after %.1f s", time.Since(began).Seconds())
	if err := member.Get(t.Context(), "/v1/images/"+img.ID, &row); err != nil {
		t.Fatal(err)
	}
	if f := row.Facts; f == nil || f.OS.Codename != "bookworm" || len(f.Packages) != 1 || f.Packages[0].Version != "3.0.11-1~deb12u1" {
		t.Errorf("facts %+v", f)
	}
	if row.ProjectID != s.project {
		t.Errorf("the image is of project %s, its owner is %s", row.ProjectID, s.project)
	}
	// Nobody asked for it over the API: the job has no user.
	jobs, err := client.List[job.Job](t.Context(), s.as(t, "admin"), "jobs", map[string][]string{"resource": {"images/" + img.ID}, "all_projects": {"true"}})
	if err != nil || len(jobs) != 1 || jobs[0].Kind != job.Inspect || jobs[0].UserID != "" {
		t.Errorf("jobs %+v, error %v", jobs, err)
	}
	foreign, err := client.List[catalog.Image](t.Context(), s.as(t, "other"), "images", nil)
	if err != nil || slices.ContainsFunc(foreign, func(i catalog.Image) bool { return i.ID == img.ID }) {
		t.Errorf("another project sees %+v, error %v", foreign, err)
	}
}
