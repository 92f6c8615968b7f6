package cloud_test

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// TestRealGuests: the cloud runs guests as a worker's QEMU does, and nothing of them stays in the project.
func TestRealGuests(t *testing.T) {
	s := realStand(t, "kiln.tiny")
	boottest.GuestContract(t, s.booter)
	s.noGuests(t, "")
}

// noGuests: no image of a guest is in the project but except, and no server.
func (s stand) noGuests(t *testing.T, except string) {
	t.Helper()
	images, err := s.glance.ForProject(s.project).Images(t.Context(), map[string]string{"owner": s.project})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		if i.Name == "kiln-quarantine-boot" && i.ID != except {
			t.Errorf("the image %s is still there: %s, %v", i.ID, i.Status, i.Properties)
		}
	}
	servers, err := s.nova.ServersWith(t.Context(), s.project, cloud.KeyBootTest)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range servers {
		if v.Name == "kiln-quarantine-boot" {
			t.Errorf("the server %s is still there: %s", v.ID, v.Status)
		}
	}
}

// TestRealSweepOfGuests: images of a killed worker go when their time is over, and not before.
func TestRealSweepOfGuests(t *testing.T) {
	s := realStand(t, "kiln.tiny")
	store := s.glance.ForProject(s.project)
	var ids []string
	for _, until := range []time.Duration{-time.Minute, time.Hour} {
		n := catalog.NewGlanceImage{
			ID: uuid.NewString(), Name: "kiln-quarantine-boot", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private",
			Properties: map[string]string{"kiln_guest": "yes", cloud.KeyBootTest: uuid.NewString(), cloud.KeyUntil: strconv.FormatInt(time.Now().Add(until).Unix(), 10)},
		}
		if _, err := store.CreateImage(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if err := store.Upload(t.Context(), n.ID, bytes.NewReader(make([]byte, 512)), 512); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, n.ID)
	}
	if n, err := s.booter.Sweep(t.Context()); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := store.Image(t.Context(), ids[0]); !errs.Is(err, errs.NotFound) {
		t.Errorf("the old one: %v", err)
	}
	s.noGuests(t, ids[1])
	if err := store.DeleteImage(t.Context(), ids[1]); err != nil {
		t.Errorf("the other one: %v", err)
	}
}
