package pocket_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// newImage makes a queued raw image and answers its URL.
func newImage(t *testing.T, cloud *pocket.Cloud, token string) string {
	t.Helper()
	resp := do(t, http.MethodPost, cloud.URL()+"/image/v2/images", token, `{"disk_format":"raw","container_format":"bare"}`)
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s", resp.Status)
	}
	return resp.Header.Get("Location")
}

func upload(t *testing.T, url, token string, content []byte) (reply, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/file", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("Content-Type", "application/octet-stream")
	return exchange(req)
}

func body(t *testing.T, r reply) string {
	t.Helper()
	if r.cut != nil {
		t.Fatal(r.cut)
	}
	return string(r.body)
}

func wantStatus(t *testing.T, url, token, status string) {
	t.Helper()
	if got := body(t, do(t, http.MethodGet, url, token, "")); !strings.Contains(got, `"status":"`+status+`"`) {
		t.Errorf("the image is not %s: %s", status, got)
	}
}

func TestUploadThatBreaksLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	cloud, err := pocket.Start(t.Context(), pocket.Config{Dir: dir, ImageQuota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cloud.Close() }()
	token := login(t, cloud, "demo", "demo")
	url := newImage(t, cloud, token)
	content := bytes.Repeat([]byte("kiln"), 100_000)

	put := wire.Match{Service: pocket.Image, Method: http.MethodPut, PathSuffix: "/file"}
	cloud.Fail(put, wire.Fault{CutRequest: 100_000}, 1)
	if resp, err := upload(t, url, token, content); err == nil {
		t.Errorf("the connection was to break: %s", resp.Status)
	}
	wantStatus(t, url, token, "queued")
	cloud.Fail(put, wire.Fault{Status: http.StatusRequestEntityTooLarge}, 1)
	if resp, err := upload(t, url, token, content); err == nil && resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("armed 413: %s", resp.Status)
	}
	if resp, err := upload(t, url, token, make([]byte, 1<<20+1)); err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("over the quota: %v, %v", resp, err)
	}
	wantStatus(t, url, token, "queued")
	for _, folder := range []string{"incoming", "staging", "stores/file1", "stores/file2"} {
		if left, err := os.ReadDir(filepath.Join(dir, "image", folder)); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, error %v", folder, left, err)
		}
	}
	if resp, err := upload(t, url, token, content); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("the upload after all that: %v, %v", resp, err)
	}
	wantStatus(t, url, token, "active")

	cloud.Fail(wire.Match{Service: pocket.Image, PathSuffix: "/file"}, wire.Fault{CutResponse: 1000}, 1)
	if got := do(t, http.MethodGet, url+"/file", token, ""); !errors.Is(got.cut, io.ErrUnexpectedEOF) || len(got.body) != 1000 {
		t.Errorf("a cut download gave %d bytes and error %v", len(got.body), got.cut)
	}
	if got := body(t, do(t, http.MethodGet, url+"/file", token, "")); got != string(content) {
		t.Errorf("the next download gave %d bytes", len(got))
	}
}

func TestServiceAway(t *testing.T) {
	cloud := start(t, pocket.Config{})
	token := login(t, cloud, "demo", "demo")
	cloud.Fail(wire.Match{Service: pocket.Image}, wire.Fault{}, -1)
	if resp, err := try(t, http.MethodGet, cloud.URL()+"/image/v2/images", token, ""); err == nil {
		t.Errorf("a service that died answered %s", resp.Status)
	}
	if got := do(t, http.MethodGet, cloud.AuthURL()+"/auth/projects", token, ""); got.StatusCode != http.StatusOK {
		t.Errorf("the other services live: %s", got.Status)
	}
	cloud.ClearFaults()
	if got := do(t, http.MethodGet, cloud.URL()+"/image/v2/images", token, ""); got.StatusCode != http.StatusOK {
		t.Errorf("after its return: %s", got.Status)
	}
}

// TestOneOfManyUploadsWins: of many uploads into one image one is taken, and its bytes are the image's.
func TestOneOfManyUploadsWins(t *testing.T) {
	cloud := start(t, pocket.Config{})
	token := login(t, cloud, "demo", "demo")
	url := newImage(t, cloud, token)
	statuses := make([]int, 8)
	var group sync.WaitGroup
	for n := range statuses {
		group.Go(func() {
			if resp, err := upload(t, url, token, bytes.Repeat([]byte(strconv.Itoa(n)), 200_000)); err == nil {
				statuses[n] = resp.StatusCode
			}
		})
	}
	group.Wait()
	won := -1
	for n, status := range statuses {
		switch {
		case status == http.StatusNoContent && won < 0:
			won = n
		case status == http.StatusNoContent:
			t.Errorf("two uploads were taken: %v", statuses)
		}
	}
	if won < 0 {
		t.Fatalf("no upload was taken: %v", statuses)
	}
	if got := body(t, do(t, http.MethodGet, url+"/file", token, "")); got != strings.Repeat(strconv.Itoa(won), 200_000) {
		t.Errorf("the image holds the bytes of another upload: %.20q…", got)
	}
}
