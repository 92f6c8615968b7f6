package glance_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func newImage() catalog.NewGlanceImage {
	return catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "kiln-test", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private", MinDiskGiB: 1,
		Properties: map[string]string{catalog.PropFamily: "kiln-test", catalog.PropOriginID: uuid.NewString()},
	}
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func create(t *testing.T, c *glance.Client, n catalog.NewGlanceImage) catalog.GlanceImage {
	t.Helper()
	image, err := c.CreateImage(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := c.DeleteImage(ctx, n.ID); err != nil && !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
	})
	return image
}

func TestPocketImageLife(t *testing.T) {
	_, cloud := cloudtest.Pocket(t, pocket.Config{})
	imageLife(t, glance.New(cloud))
}

func TestRealImageLife(t *testing.T) {
	imageLife(t, glance.New(cloudtest.Real(t, "kiln", "service", real.Glance)))
}

// imageLife is what builds and upgrades do with an image, on both clouds.
func imageLife(t *testing.T, c *glance.Client) {
	n := newImage()
	image := create(t, c, n)
	if image.ID != n.ID || image.Status != "queued" || image.Properties[catalog.PropFamily] != "kiln-test" || image.MinDiskGiB != 1 {
		t.Fatalf("created %+v", image)
	}
	if _, err := c.CreateImage(t.Context(), n); errs.CodeOf(err) != "kiln.glance.conflict" {
		t.Errorf("the same id twice: %v", err)
	}
	if _, err := c.Download(t.Context(), n.ID, 0); err == nil {
		t.Error("downloaded an image without bytes")
	}
	data := content(3 << 20)
	sum := sha512.Sum512(data)
	if err := c.Upload(t.Context(), n.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	image, err := c.Image(t.Context(), n.ID)
	if err != nil || image.Status != "active" || image.Size != int64(len(data)) || glance.Digest(image) != "sha512:"+hex.EncodeToString(sum[:]) {
		t.Fatalf("after the upload: %+v, %v", image, err)
	}
	if err := c.Upload(t.Context(), n.ID, bytes.NewReader(data), 0); !errs.Is(err, errs.Conflict) {
		t.Errorf("a second upload: %v", err)
	}
	for _, offset := range []int64{0, 1_000_000} {
		body, err := c.Download(t.Context(), n.ID, offset)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, data[offset:]) {
			t.Errorf("download from %d: %d bytes, %v", offset, len(got), err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	patches(t, c, n)
	shares(t, c, n)
	if err := c.DeleteImage(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Image(t.Context(), n.ID); !errs.Is(err, errs.NotFound) {
		t.Errorf("after the delete: %v", err)
	}
}

func TestRealIDsAreUsedOnce(t *testing.T) {
	c := glance.New(cloudtest.Real(t, "kiln", "service", real.Glance))
	n := newImage()
	create(t, c, n)
	if err := c.DeleteImage(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateImage(t.Context(), n); errs.CodeOf(err) != "kiln.glance.id_used" {
		t.Errorf("the id of a deleted image: %v", err)
	}
}

// shares offers the image to another project, takes that back, and protects it meanwhile; each twice.
func shares(t *testing.T, c *glance.Client, n catalog.NewGlanceImage) {
	t.Helper()
	other, shared, yes, no := uuid.NewString(), "shared", true, false
	if err := c.AddMember(t.Context(), n.ID, other); err == nil {
		t.Error("a private image was shared")
	}
	for range 2 {
		if _, err := c.PatchImage(t.Context(), n.ID, catalog.GlancePatch{Visibility: &shared, Protected: &yes}); err != nil {
			t.Fatal(err)
		}
		if err := c.AddMember(t.Context(), n.ID, other); err != nil {
			t.Errorf("share: %v", err)
		}
	}
	if err := c.DeleteImage(t.Context(), n.ID); !errs.Is(err, errs.Forbidden) {
		t.Errorf("a protected image was deleted: %v", err)
	}
	for range 2 {
		if err := c.RemoveMember(t.Context(), n.ID, other); err != nil {
			t.Errorf("unshare: %v", err)
		}
		if _, err := c.PatchImage(t.Context(), n.ID, catalog.GlancePatch{Protected: &no}); err != nil {
			t.Fatal(err)
		}
	}
}

func patches(t *testing.T, c *glance.Client, n catalog.NewGlanceImage) {
	t.Helper()
	hidden := true
	image, err := c.PatchImage(t.Context(), n.ID, catalog.GlancePatch{Hidden: &hidden, Properties: map[string]string{
		"kiln_new": "1", catalog.PropFamily: "kiln-test-2", catalog.PropOriginID: "", "kiln_never": "",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := image.Properties[catalog.PropOriginID]; there || !image.Hidden || image.Properties["kiln_new"] != "1" ||
		image.Properties[catalog.PropFamily] != "kiln-test-2" {
		t.Errorf("patched: %+v", image)
	}
	for _, filter := range []map[string]string{
		{catalog.PropFamily: "kiln-test-2", "kiln_new": "1"}, {"os_hidden": "true", catalog.PropFamily: "kiln-test-2"},
	} {
		list, err := c.Images(t.Context(), filter)
		if err != nil || !slices.ContainsFunc(list, func(i catalog.GlanceImage) bool { return i.ID == n.ID }) {
			t.Errorf("%v does not find the hidden image among %d: %v", filter, len(list), err)
		}
	}
	list, err := c.Images(t.Context(), map[string]string{catalog.PropFamily: "kiln-test-2", "os_hidden": "false"})
	if err != nil || len(list) != 0 {
		t.Errorf("visible ones: %d, %v", len(list), err)
	}
}

func TestPocketUploadThatBreaksLeavesNothing(t *testing.T) {
	_, cloud := cloudtest.Pocket(t, pocket.Config{})
	brokenUploads(t, glance.New(cloud))
}

func TestRealUploadThatBreaksLeavesNothing(t *testing.T) {
	brokenUploads(t, glance.New(cloudtest.Real(t, "kiln", "service", real.Glance)))
}

func brokenUploads(t *testing.T, c *glance.Client) {
	data := content(1 << 20)
	for name, broken := range map[string]struct {
		body io.Reader
		size int64
		code string
	}{
		"the disk fails":     {io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errors.New("bad sector"))), 2 << 20, "kiln.glance.source"},
		"too short":          {bytes.NewReader(data), 2 << 20, "kiln.glance.short"},
		"longer than it was": {bytes.NewReader(data), 1000, "kiln.glance.short"},
	} {
		n := newImage()
		create(t, c, n)
		if err := c.Upload(t.Context(), n.ID, broken.body, broken.size); errs.CodeOf(err) != broken.code {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Image(t.Context(), n.ID); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: the record is still there: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := newImage()
	create(t, c, n)
	pipe, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(data)
		cancel()
	}()
	defer writer.Close()
	if err := c.Upload(ctx, n.ID, pipe, 0); !errs.Is(err, errs.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := c.Image(t.Context(), n.ID); !errs.Is(err, errs.NotFound) {
		t.Errorf("cancelled: the record is still there: %v", err)
	}
}

func TestUploadIntoAFullOrBrokenGlance(t *testing.T) {
	fake, cloud := cloudtest.Pocket(t, pocket.Config{ImageQuota: 1 << 20})
	c := glance.New(cloud)
	n := newImage()
	create(t, c, n)
	if err := c.Upload(t.Context(), n.ID, bytes.NewReader(content(2<<20)), 2<<20); !errs.Is(err, errs.TooLarge) && !errs.Is(err, errs.Unavailable) {
		t.Errorf("full: %v", err)
	}
	fake.Fail(wire.Match{Service: pocket.Image, PathSuffix: "/file"}, wire.Fault{Status: http.StatusRequestEntityTooLarge}, 1)
	n = newImage()
	create(t, c, n)
	if err := c.Upload(t.Context(), n.ID, bytes.NewReader(content(1000)), 0); errs.CodeOf(err) != "kiln.glance.full" {
		t.Errorf("413: %v", err)
	}
	if _, err := c.Image(t.Context(), n.ID); !errs.Is(err, errs.NotFound) {
		t.Errorf("413: the record is still there: %v", err)
	}
}

// TestStall needs a Glance that stands still.
func TestStall(t *testing.T) {
	fake, _ := cloudtest.Pocket(t, pocket.Config{})
	release := make(chan struct{})
	still := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/v2/images/x/file" {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("five!"))
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/v2/images/x" {
			http.NotFound(w, r)
			return
		}
		<-release
	}))
	defer still.Close()
	defer close(release)
	fake.SetEndpoint("image", "glance", still.URL)
	c := glance.New(cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Stall: 300 * time.Millisecond}))
	if err := c.Upload(t.Context(), "x", bytes.NewReader(content(100)), 0); errs.CodeOf(err) != "kiln.glance.stalled" {
		t.Errorf("upload: %v", err)
	}
	body, err := c.Download(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	time.Sleep(400 * time.Millisecond) // a slow reader is no stall
	if _, err = io.ReadFull(body, make([]byte, 5)); err != nil {
		t.Errorf("what came can be read: %v", err)
	}
	if _, err = io.ReadAll(body); errs.CodeOf(err) != "kiln.glance.stalled" {
		t.Errorf("download: %v", err)
	}
}

func TestRangeThatIsIgnored(t *testing.T) {
	fake, _ := cloudtest.Pocket(t, pocket.Config{})
	flat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("0123456789"))
	}))
	defer flat.Close()
	fake.SetEndpoint("image", "glance", flat.URL)
	body, err := glance.New(cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL()})).Download(t.Context(), "x", 4)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || string(got) != "456789" {
		t.Errorf("from 4: %q, %v", got, err)
	}
}

func TestPocketStores(t *testing.T) {
	_, cloud := cloudtest.Pocket(t, pocket.Config{})
	stores(t, glance.New(cloud))
}

func TestRealStores(t *testing.T) {
	stores(t, glance.New(cloudtest.Real(t, "kiln", "service", real.Glance)))
}

// stores copies an image into a second store and reads where it is.
func stores(t *testing.T, c *glance.Client) {
	all, err := c.Stores(t.Context())
	if err != nil || len(all) < 2 {
		t.Fatalf("stores: %+v, %v", all, err)
	}
	var other string
	for _, s := range all {
		if !s.Default && s.Type != "http" {
			other = s.ID
		}
	}
	n := newImage()
	create(t, c, n)
	if err := c.Upload(t.Context(), n.ID, bytes.NewReader(content(100_000)), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.CopyToStores(t.Context(), n.ID, []string{other}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		i, err := c.ImportOf(t.Context(), n.ID)
		if err != nil || len(i.Failed) > 0 || time.Now().After(end) {
			t.Fatalf("copy-image: %+v, %v", i, err)
		}
		if len(i.Running) == 0 && slices.Contains(i.Done, other) {
			break
		}
	}
}

// TestUploadWithARevokedToken meets the 401 before a byte was sent, so that nothing of the stream is lost.
func TestUploadWithARevokedToken(t *testing.T) {
	fake, cloud := cloudtest.Pocket(t, pocket.Config{})
	c := glance.New(cloud)
	n := newImage()
	create(t, c, n)
	fake.ExpireTokens("kiln")
	if err := c.Upload(t.Context(), n.ID, iotest.OneByteReader(bytes.NewReader(content(1000))), 1000); err != nil {
		t.Fatal(err)
	}
	if image, err := c.Image(t.Context(), n.ID); err != nil || image.Size != 1000 {
		t.Errorf("after the upload: %+v, %v", image, err)
	}
}
