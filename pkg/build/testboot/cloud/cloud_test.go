package cloud_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// fake is a cloud whose servers end up in the status, with a console that grows by each reading and keeps its last 4 KiB.
type fake struct {
	mu        sync.Mutex
	status    string
	createErr error // after the server was made, as with a lost answer
	lines     []string
	console   string
	servers   map[string]placement.Server
	image     catalog.GlanceImage
	members   []string
	seen      []string // visibility and members when the server was made
}

func (f *fake) Flavor(context.Context, string) (placement.Flavor, error) {
	return placement.Flavor{ID: "f"}, nil
}

func (f *fake) FindProject(context.Context, string) (string, error) { return "quarantine", nil }

func (f *fake) CreateTestServer(_ context.Context, _ string, s cloud.NewServer) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := strconv.Itoa(len(f.servers) + 1)
	f.servers[id] = placement.Server{ID: id, Status: f.status, Metadata: s.Metadata, Fault: "No valid host was found."}
	f.seen = append([]string{f.image.Visibility}, f.members...)
	return id, f.createErr
}

func (f *fake) Server(_ context.Context, _, id string) (placement.Server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.servers[id]
	if !ok {
		return s, errs.New(errs.NotFound, "kiln.nova.not_found", "gone")
	}
	return s, nil
}

func (f *fake) ServersWith(_ context.Context, _, key string) ([]placement.Server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []placement.Server
	for _, s := range f.servers {
		if s.Metadata[key] != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

func (f *fake) DeleteServer(_ context.Context, _, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.servers, id)
	return nil
}

func (f *fake) Console(context.Context, string, string, int) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(25, len(f.lines))
	f.console += strings.Join(f.lines[:n], "")
	f.lines = f.lines[n:]
	f.console = f.console[max(0, len(f.console)-4096):]
	return f.console, nil
}

func (f *fake) Snapshot(context.Context, string, string, string, map[string]string) (string, error) {
	return "", errs.New(errs.Conflict, "kiln.nova.conflict", "no guest runs here")
}

func (f *fake) Image(context.Context, string) (catalog.GlanceImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.image, nil
}

func (f *fake) PatchImage(_ context.Context, _ string, p catalog.GlancePatch) (catalog.GlanceImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.image.Visibility = *p.Visibility
	return f.image, nil
}

func (f *fake) AddMember(_ context.Context, _, project string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.image.Visibility != "shared" {
		return errs.New(errs.Forbidden, "kiln.glance.forbidden", "not shared")
	}
	f.members = append(f.members, project)
	return nil
}

func (f *fake) RemoveMember(_ context.Context, _, project string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = slices.DeleteFunc(f.members, func(m string) bool { return m == project })
	return nil
}

func newFake(status string) *fake {
	f := &fake{status: status, servers: map[string]placement.Server{}, image: catalog.GlanceImage{ID: "i", Owner: "o", Visibility: "private"}}
	for i := range 300 { // more than the console keeps
		f.lines = append(f.lines, fmt.Sprintf("line %d of a long boot\r\n", i))
	}
	f.lines = append(f.lines, "host login: ")
	return f
}

func (f *fake) booter(t *testing.T) *cloud.Booter {
	t.Helper()
	b, err := cloud.New(cloud.Config{Nova: f, Images: f, Projects: f, Project: "q", Flavor: "f", Poll: time.Millisecond, Timeouts: testboot.Timeouts{Boot: 10 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *fake) clean(t *testing.T) {
	t.Helper()
	if len(f.servers) > 0 || f.image.Visibility != "private" || len(f.members) > 0 {
		t.Errorf("left: %v, %s, %v", f.servers, f.image.Visibility, f.members)
	}
}

func TestTheWholeConsoleIsReadOnce(t *testing.T) {
	f := newFake("ACTIVE")
	var log safeLog
	report, err := f.booter(t).Boot(t.Context(), build.BootTest{ImageID: "i", Key: "k", Log: &log})
	if err != nil || report.Method != "nova" || report.Seconds <= 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	for i := range 300 {
		if want := fmt.Sprintf("| line %d of a long boot\n", i); strings.Count(log.String(), want) != 1 {
			t.Fatalf("%q is in the log %d times", want, strings.Count(log.String(), want))
		}
	}
	if !slices.Equal(f.seen, []string{"shared", "quarantine"}) {
		t.Errorf("the server was made while the image was %v", f.seen)
	}
	f.clean(t)
}

func TestWhatIsNotTheImagesFault(t *testing.T) {
	f := newFake("ERROR")
	_, err := f.booter(t).Boot(t.Context(), build.BootTest{ImageID: "i", Key: "k"})
	if !errs.Is(err, errs.Unavailable) || errs.CodeOf(err) != testboot.CodeCloud || !strings.Contains(err.Error(), "No valid host") {
		t.Errorf("%v", err)
	}
	f.clean(t)

	f = newFake("ACTIVE")
	f.createErr = errs.New(errs.Timeout, "kiln.nova.timeout", "the answer was lost")
	if _, err := f.booter(t).Boot(t.Context(), build.BootTest{ImageID: "i", Key: "k"}); !errs.Is(err, errs.Timeout) {
		t.Errorf("%v", err)
	}
	f.clean(t)
}

func TestMachineThatSwitchesOff(t *testing.T) {
	f := newFake("ACTIVE")
	f.lines = []string{"reboot: Power down\r\n"}
	b := f.booter(t)
	go func() {
		for {
			f.mu.Lock()
			for id, s := range f.servers {
				if len(f.lines) == 0 {
					s.Status = "SHUTOFF"
					f.servers[id] = s
				}
			}
			f.mu.Unlock()
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := b.Boot(t.Context(), build.BootTest{ImageID: "i", Key: "k"})
	if errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), "switched off") || !strings.Contains(err.Error(), "Power down") {
		t.Errorf("%v", err)
	}
}

func TestAnImageOfTheQuarantineProjectIsNotShared(t *testing.T) {
	f := newFake("ACTIVE")
	f.image.Owner = "quarantine"
	if _, err := f.booter(t).Boot(t.Context(), build.BootTest{ImageID: "i"}); err != nil || !slices.Equal(f.seen, []string{"private"}) {
		t.Errorf("%v, %v", f.seen, err)
	}
}

func TestTestsThatAreTooLongForNova(t *testing.T) {
	f := newFake("ACTIVE")
	text := make([]byte, 60<<10)
	for i := range text { // does not pack
		text[i] = byte(i*i>>3 ^ i*2654435761>>13)
	}
	in := build.BootTest{ImageID: "i", Facts: &catalog.Facts{CloudInit: true}}
	for range 3 {
		in.Tests = append(in.Tests, build.BootCommand{Name: "long", Text: string(text), Timeout: time.Minute})
		text = append([]byte{}, text[1:]...)
		for i := range text {
			text[i] ^= byte(i * 7919 >> 5)
		}
	}
	if _, err := f.booter(t).Boot(t.Context(), in); !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != testboot.CodeTests {
		t.Errorf("%v", err)
	}
	f.clean(t)
}
