package cloud_test

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// stand is the real cloud with "other" as the quarantine project.
type stand struct {
	glance  *glance.Client
	nova    *nova.Client
	booter  *cloud.Booter
	project string
	flavor  string
}

func realStand(t *testing.T, flavor string) stand {
	t.Helper()
	c := cloudtest.Real(t, "kiln", "service", real.Nova, real.Glance)
	s := stand{glance: glance.New(c), nova: nova.New(c)}
	projects := keystone.New(c)
	var err error
	if s.project, err = projects.FindProject(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	f, err := s.nova.Flavor(t.Context(), flavor)
	if err != nil {
		t.Fatal(err)
	}
	s.flavor = f.ID
	s.booter, err = cloud.New(cloud.Config{Nova: s.nova, Images: s.glance, Store: func(id string) cloud.Store { return s.glance.ForProject(id) }, Projects: projects, Project: "other", Flavor: flavor, Zone: "nova:" + os.Getenv("KILN_TEST_LIBVIRT_HOST"),
		Timeouts: testboot.Timeouts{Boot: 20 * time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// upload makes a private image of the service project.
func (s stand) upload(t *testing.T, path, format string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id := uuid.NewString()
	if _, err := s.glance.CreateImage(t.Context(), catalog.NewGlanceImage{ID: id, Name: "kiln-test-boot", DiskFormat: format, ContainerFormat: "bare", Visibility: "private"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.glance.DeleteImage(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	if err := s.glance.Upload(t.Context(), id, f, 0); err != nil {
		t.Fatal(err)
	}
	return id
}

// clean: no test server of the key, and nobody may use the image.
func (s stand) clean(t *testing.T, imageID, key string) {
	t.Helper()
	servers, err := s.nova.ServersWith(t.Context(), s.project, cloud.KeyBootTest)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range servers {
		if v.Metadata[cloud.KeyBootTest] == key {
			t.Errorf("the server %s is still there: %s", v.ID, v.Status)
		}
	}
	image, err := s.glance.Image(t.Context(), imageID)
	if err != nil || image.Visibility != "private" {
		t.Errorf("the image is %s: %v", image.Visibility, err)
	}
	if members, err := s.glance.Members(t.Context(), imageID); err == nil && len(members) > 0 {
		t.Errorf("the image has members: %v", members)
	}
}

type safeLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestRealDebianPasses(t *testing.T) {
	s := realStand(t, "kiln.small")
	debian := boottest.Debian(t)
	image := s.upload(t, debian.Path, "qcow2")
	key := uuid.NewString()
	var log safeLog
	start := time.Now()
	report, err := s.booter.Boot(t.Context(), build.BootTest{
		ImageID: image, Key: key, Firmware: "bios", Facts: debian.Facts, Log: &log,
		Tests: []build.BootCommand{
			{Name: "who", Text: "id -u\ngrep one /etc/boottest", Timeout: time.Minute},
			{Name: "in the cloud", Text: "cat /sys/class/dmi/id/product_name", Timeout: time.Minute},
		},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("booted, tested and deleted in %s, up after %.0f s", time.Since(start).Round(time.Second), report.Seconds)
	if report.Method != "nova" || len(report.Tests) != 2 || report.Tests[0].Output != "0\none" || !strings.Contains(report.Tests[1].Output, "OpenStack") {
		t.Errorf("%+v", report)
	}
	if !strings.Contains(log.String(), "cloud-init[") || !strings.Contains(log.String(), "test who: exit status 0") {
		t.Errorf("the log has no console:\n%s", log.String())
	}
	s.clean(t, image, key)
}

// TestRealPanic: also a server that a killed worker left goes.
func TestRealPanic(t *testing.T) {
	s := realStand(t, "kiln.tiny")
	image := s.upload(t, boottest.Tiny(t, "panic", ""), "raw")
	key := uuid.NewString()
	left, err := s.nova.CreateTestServer(t.Context(), s.project, cloud.NewServer{Name: "kiln-test-left", ImageID: image, FlavorID: s.flavor,
		Metadata: map[string]string{cloud.KeyBootTest: key, cloud.KeyUntil: strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)}})
	if err != nil {
		t.Fatal(err)
	}
	var log safeLog
	_, err = s.booter.Boot(t.Context(), build.BootTest{ImageID: image, Key: key, Facts: &catalog.Facts{}, Log: &log})
	if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != testboot.CodeBoot {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for _, want := range []string{"the kernel panicked", "tiny: panic", "Attempted to kill init"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if !strings.Contains(log.String(), "Kernel panic") {
		t.Errorf("the log has no console:\n%s", log.String())
	}
	if _, err := s.nova.Server(t.Context(), s.project, left); !errs.Is(err, errs.NotFound) {
		t.Errorf("the left server is still there: %v", err)
	}
	s.clean(t, image, key)
}

// TestRealSweep: one whose time is over goes, one that is waited for stays.
func TestRealSweep(t *testing.T) {
	s := realStand(t, "kiln.tiny")
	image := s.upload(t, boottest.Tiny(t, "silent", ""), "raw")
	var ids []string
	for _, until := range []time.Duration{-time.Minute, time.Hour} {
		id, err := s.nova.CreateTestServer(t.Context(), s.project, cloud.NewServer{Name: "kiln-test-sweep", ImageID: image, FlavorID: s.flavor,
			Metadata: map[string]string{cloud.KeyBootTest: uuid.NewString(), cloud.KeyUntil: strconv.FormatInt(time.Now().Add(until).Unix(), 10)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.nova.DeleteServer(context.WithoutCancel(t.Context()), s.project, id) })
		ids = append(ids, id)
	}
	if n, err := s.booter.Sweep(t.Context()); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := s.nova.Server(t.Context(), s.project, ids[0]); !errs.Is(err, errs.NotFound) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := s.nova.Server(t.Context(), s.project, ids[1]); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// TestRealCancel: a cancelled boot leaves no server and no member.
func TestRealCancel(t *testing.T) {
	s := realStand(t, "kiln.tiny")
	image := s.upload(t, boottest.Tiny(t, "silent", ""), "raw")
	key := uuid.NewString()
	ctx, stop := context.WithCancel(t.Context())
	var log safeLog
	go func() {
		for !strings.Contains(log.String(), "tiny: silent") && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
		stop()
	}()
	_, err := s.booter.Boot(ctx, build.BootTest{ImageID: image, Key: key, Log: &log})
	if !errs.Is(err, errs.Cancelled) {
		t.Errorf("%v", err)
	}
	s.clean(t, image, key)
}
