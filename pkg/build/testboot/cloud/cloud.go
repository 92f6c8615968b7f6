// Package cloud boots images that nobody sees yet as servers in a quarantine project of the cloud itself.
package cloud

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// The metadata keys of a test server.
const (
	KeyBootTest = "kiln_boot_test"       // BootTest.Key of the boot that it belongs to
	KeyUntil    = "kiln_boot_test_until" // Unix time after which nobody waits for it any more
)

// NewServer is what is asked of Nova.
type NewServer struct {
	Name      string
	ImageID   string
	FlavorID  string
	NetworkID string // "" for no network
	Zone      string // availability zone; "" for Nova's default
	UserData  []byte // by config drive
	Metadata  map[string]string
}

// Nova is what a test boot needs of the compute service; projectID is the quarantine project.
type Nova interface {
	Flavor(ctx context.Context, idOrName string) (placement.Flavor, error)
	CreateTestServer(ctx context.Context, projectID string, s NewServer) (id string, err error)
	Server(ctx context.Context, projectID, id string) (placement.Server, error)
	// ServersWith lists the servers whose metadata has the key, in any state.
	ServersWith(ctx context.Context, projectID, key string) ([]placement.Server, error)
	DeleteServer(ctx context.Context, projectID, id string) error // no error where it is gone
	Console(ctx context.Context, projectID, id string, lines int) (string, error)
	// Snapshot asks for a private image of the server's disk, and gives its id; it is there before its bytes are.
	Snapshot(ctx context.Context, projectID, id, name string, properties map[string]string) (imageID string, err error)
}

// Images is what a test boot needs of the image service.
type Images interface {
	Image(ctx context.Context, id string) (catalog.GlanceImage, error)
	PatchImage(ctx context.Context, id string, p catalog.GlancePatch) (catalog.GlanceImage, error)
	AddMember(ctx context.Context, imageID, projectID string) error    // no error where it is one
	RemoveMember(ctx context.Context, imageID, projectID string) error // no error where it is none
}

// Projects finds the quarantine project; errs.NotFound for none.
type Projects interface {
	FindProject(ctx context.Context, idOrName string) (string, error)
}

// Config says where images are booted. Zero fields take the default.
type Config struct {
	Nova     Nova
	Images   Images
	Projects Projects
	Store    func(projectID string) Store // the image service in a project; nil: no guests are run
	Project  string                       // id or name; required
	Flavor   string                       // id or name; required
	Network  string                       // id; "" for servers without a network
	Zone     string                       // availability zone, or zone:host; "" for Nova's default
	Timeouts testboot.Timeouts
	Poll     time.Duration // between two looks at the server; default 3 s
	Log      logrus.FieldLogger
	Now      func() time.Time
}

// Booter boots images in the quarantine project. Its servers are deleted whatever happens: those of a killed worker
// carry the build's key, and go at its next attempt, and a time after which any Sweep takes them.
type Booter struct{ cfg Config }

var _ build.Booter = (*Booter)(nil)

// New makes a Booter; nothing is asked of the cloud yet.
func New(cfg Config) (*Booter, error) {
	if cfg.Project == "" || cfg.Flavor == "" {
		return nil, errs.New(errs.Invalid, testboot.CodeCloud, "Test boots on the cloud need [build] quarantine_project and quarantine_flavor.")
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 3 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Timeouts = cfg.Timeouts.OrDefault()
	return &Booter{cfg: cfg}, nil
}

// cleanTime bounds what is done after a boot, also after a cancelled one.
const cleanTime = 90 * time.Second

// Boot implements build.Booter. The firmware is what the image's own property hw_firmware_type asks of Nova.
func (b *Booter) Boot(ctx context.Context, t build.BootTest) (report build.BootReport, err error) {
	report.Method, report.Firmware = "nova", t.Firmware
	plan, err := testboot.NewPlan(t)
	if err != nil {
		return report, err
	}
	project, err := b.cfg.Projects.FindProject(ctx, b.cfg.Project)
	if err != nil {
		return report, err
	}
	flavor, err := b.cfg.Nova.Flavor(ctx, b.cfg.Flavor)
	if err != nil {
		return report, err
	}
	key := t.Key
	if key == "" {
		key = t.ImageID
	}
	if _, err := b.sweep(ctx, project, key); err != nil {
		return report, err
	}
	unshare, err := b.share(ctx, t.ImageID, project)
	if err != nil {
		return report, err
	}
	s := &server{Booter: b, project: project, key: key, plan: plan, test: t}
	defer func() {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer stop()
		// After an error of the call itself the server may be there all the same: it is found by its key.
		_, sweepErr := b.sweep(clean, project, key)
		err = join(err, join(sweepErr, unshare(clean)))
	}()
	if err := s.create(ctx, flavor.ID); err != nil {
		return report, err
	}
	err = s.follow(ctx)
	if s.watch != nil {
		firmware := report.Firmware
		report = s.watch.Report("nova", firmware)
	}
	return report, err
}

// join keeps the first error's kind and code.
func join(first, second error) error {
	if first == nil || second == nil {
		return errors.Join(first, second)
	}
	return errs.Wrap(errors.Join(first, second), errs.KindOf(first), errs.CodeOf(first), "The test boot failed, and its server could not be removed.")
}

// share lets the quarantine project use the image, and gives what takes that back. Glance has members for shared
// images alone; a shared image without members is as invisible as a private one.
func (b *Booter) share(ctx context.Context, imageID, project string) (func(context.Context) error, error) {
	image, err := b.cfg.Images.Image(ctx, imageID)
	if err != nil {
		return nil, err
	}
	if image.Owner == project || image.Visibility == "public" || image.Visibility == "community" {
		return func(context.Context) error { return nil }, nil
	}
	unshare := func(ctx context.Context) error {
		err := b.cfg.Images.RemoveMember(ctx, imageID, project)
		if errs.Is(err, errs.NotFound) {
			return nil // the image itself is gone
		}
		if err != nil || image.Visibility == "shared" {
			return err
		}
		return b.setVisibility(ctx, imageID, image.Visibility)
	}
	if image.Visibility != "shared" {
		if err := b.setVisibility(ctx, imageID, "shared"); err != nil {
			return nil, err
		}
	}
	if err := b.cfg.Images.AddMember(ctx, imageID, project); err != nil {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer stop()
		return nil, join(err, unshare(clean))
	}
	return unshare, nil
}

func (b *Booter) setVisibility(ctx context.Context, imageID, visibility string) error {
	_, err := b.cfg.Images.PatchImage(ctx, imageID, catalog.GlancePatch{Visibility: &visibility})
	return err
}

// Sweep deletes the servers and images that nobody waits for any more, and says how many. Call it at the start of a worker.
func (b *Booter) Sweep(ctx context.Context) (int, error) {
	project, err := b.cfg.Projects.FindProject(ctx, b.cfg.Project)
	if err != nil {
		return 0, err
	}
	servers, err := b.sweep(ctx, project, "")
	images, imagesErr := b.sweepImages(ctx, project, "")
	return servers + images, errors.Join(err, imagesErr)
}

// over reports whether what has the properties is of the key, or its time is over.
func (b *Booter) over(properties map[string]string, key string) bool {
	until, err := strconv.ParseInt(properties[KeyUntil], 10, 64)
	return properties[KeyBootTest] == key || err != nil || until <= b.cfg.Now().Unix()
}

// sweep deletes the servers of the key, and those whose time is over, and waits until they are gone.
func (b *Booter) sweep(ctx context.Context, project, key string) (int, error) {
	servers, err := b.cfg.Nova.ServersWith(ctx, project, KeyBootTest)
	if err != nil {
		return 0, err
	}
	swept := 0
	for _, s := range servers {
		if !b.over(s.Metadata, key) {
			continue
		}
		if err := b.remove(ctx, project, s.ID); err != nil {
			return swept, err
		}
		swept++
	}
	return swept, nil
}

// remove deletes a server and waits for its end: its image cannot be taken back from under it.
func (b *Booter) remove(ctx context.Context, project, id string) error {
	if err := b.cfg.Nova.DeleteServer(ctx, project, id); err != nil {
		return err
	}
	for {
		s, err := b.cfg.Nova.Server(ctx, project, id)
		if errs.Is(err, errs.NotFound) || s.Status == "DELETED" {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), testboot.CodeCloud, "The test server %s is still being deleted.", id)
		case <-time.After(min(time.Second, b.cfg.Poll)):
		}
	}
}
