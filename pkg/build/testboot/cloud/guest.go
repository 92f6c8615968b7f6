package cloud

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// keyGuest marks the images of guests among those of the quarantine project; they have KeyBootTest and KeyUntil too.
const keyGuest = "kiln_guest"

// Store is what a guest needs of the image service, in the quarantine project: its disk, kernel and initial RAM disk go
// there, and its disk comes back from there.
type Store interface {
	Image(ctx context.Context, id string) (catalog.GlanceImage, error)
	Images(ctx context.Context, filter map[string]string) ([]catalog.GlanceImage, error)
	CreateImage(ctx context.Context, n catalog.NewGlanceImage) (catalog.GlanceImage, error)
	Upload(ctx context.Context, id string, r io.Reader, size int64) error // what fails leaves no image
	Download(ctx context.Context, id string, offset int64) (io.ReadCloser, error)
	DeleteImage(ctx context.Context, id string) error
}

// guest is one run of one.
type guest struct {
	*Booter
	store   Store
	project string
	flavor  placement.Flavor
	plan    testboot.Plan
	in      build.Guest
	dir     string
	key     string // of this run
	until   string
	parcel  parcel
}

// Run starts a guest as a server of the quarantine project, and returns when it is gone again, with its root file system in g.Disk. It
// implements offline.Guests as testboot.QEMU does: same kernel, arguments and script. The server has no network at all, and
// g.Disk gets nothing but the root file system's bytes of the disk that came back. Errors as of testboot.QEMU.Run; CodeCloud for what the cloud could not do. After a kill -9
// of this process a Sweep removes server and images once their time is over.
func (b *Booter) Run(ctx context.Context, g build.Guest) (report build.GuestReport, err error) {
	if b.cfg.Store == nil {
		return report, errs.New(errs.Internal, testboot.CodeCloud, "Guests on the cloud need an image service.")
	}
	if g.Limit <= 0 {
		g.Limit = testboot.GuestLimit
	}
	r := &guest{Booter: b, in: g, key: uuid.NewString()}
	if r.plan, err = testboot.NewGuestPlan(); err != nil {
		return report, err
	}
	if r.project, err = b.cfg.Projects.FindProject(ctx, b.cfg.Project); err != nil {
		return report, err
	}
	if r.flavor, err = b.cfg.Nova.Flavor(ctx, b.cfg.Flavor); err != nil {
		return report, err
	}
	r.store = b.cfg.Store(r.project)
	work, err := disk.NewWork(g.Dir)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	r.dir = work.Path
	defer func() {
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer stop()
		if cleanErr := r.clean(clean); cleanErr != nil {
			b.cfg.Log.WithError(cleanErr).WithField("key", r.key).Warning("what a quarantine boot left in the cloud is removed later")
		}
	}()
	report, err = r.run(ctx)
	b.cfg.Log.WithError(err).WithField("seconds", report.Seconds).Info("a guest on the cloud ended")
	return report, disk.OrFull(work.Path, err)
}

// transfer bounds one way of the disk, by 2 MiB a second.
func (r *guest) transfer() time.Duration {
	return 10*time.Minute + time.Duration(r.parcel.size/(2*mib))*time.Second
}

func (r *guest) run(ctx context.Context) (report build.GuestReport, err error) {
	image, err := r.pack(ctx)
	if err != nil {
		return report, err
	}
	id, err := r.cfg.Nova.CreateTestServer(ctx, r.project, NewServer{
		Name: "kiln-quarantine-boot", ImageID: image, FlavorID: r.flavor.ID, Zone: r.cfg.Zone, Metadata: map[string]string{KeyBootTest: r.key, KeyUntil: r.until},
	})
	if err != nil {
		return report, err
	}
	r.say("the quarantine boot is server %s", id)
	s := &server{Booter: r.Booter, project: r.project, key: r.key, plan: r.plan, id: id}
	if err := s.started(ctx); err != nil {
		return report, err
	}
	s.watch = testboot.NewWatch(r.plan, r.in.Log, nil)
	err = s.reading(ctx, func(ended <-chan struct{}) error {
		return s.watch.WaitGuest(ctx, ended, r.cfg.Timeouts.Boot, r.in.Limit)
	})
	report = s.watch.GuestReport()
	if err != nil {
		return report, r.whose(ctx, id, err)
	}
	snapshot, err := r.snapshot(ctx, id)
	if err != nil {
		return report, err
	}
	return report, r.bringBack(ctx, snapshot)
}

// whose tells a machine that Nova or its host lost from one that its own system switched off.
func (r *guest) whose(ctx context.Context, serverID string, err error) error {
	if errs.CodeOf(err) != testboot.CodeGuest {
		return err
	}
	v, stateErr := r.cfg.Nova.Server(ctx, r.project, serverID)
	if errs.Is(stateErr, errs.NotFound) || stateErr == nil && (v.Status == "ERROR" || v.Status == "DELETED") {
		return errs.Wrap(err, errs.Unavailable, testboot.CodeCloud, "The server of the quarantine boot was lost: %s", v.Fault).After(time.Minute)
	}
	return err
}

// pack makes the three images of the guest, and gives that of its disk.
func (r *guest) pack(ctx context.Context) (string, error) {
	iso, raw, packed := filepath.Join(r.dir, "data.iso"), filepath.Join(r.dir, "parcel.raw"), filepath.Join(r.dir, "parcel.qcow2")
	if err := r.plan.GuestData(ctx, r.in, filepath.Join(r.dir, "data"), iso); err != nil {
		return "", err
	}
	var err error
	if r.parcel, err = measure(r.in, iso); err != nil {
		return "", err
	}
	if has, needs := r.flavor.Resources.DiskGB, upTo(r.parcel.size, gib)/gib; has > 0 && has < needs {
		return "", errs.New(errs.Invalid, testboot.CodeCloud, "The copy needs a disk of %d GiB for its quarantine boot, and the flavor %s has %d: name a larger one in [build] quarantine_flavor.",
			needs, r.cfg.Flavor, has)
	}
	if err := r.parcel.lay(r.in, iso, raw, r.plan.Nonce); err != nil {
		return "", err
	}
	if err := disk.ConvertScratch(ctx, disk.Image{Path: raw, Format: disk.Raw}, disk.Image{Path: packed, Format: disk.Qcow2}, nil); err != nil {
		return "", err
	}
	if err := errors.Join(os.Remove(raw), os.Remove(iso)); err != nil {
		return "", local(err)
	}
	// Longer than all that is waited for, so that no sweep takes what somebody waits for.
	until := r.cfg.Now().Add(2*r.cfg.Timeouts.Boot + r.in.Limit + 4*r.transfer() + 2*cleanTime)
	r.until = strconv.FormatInt(until.Unix(), 10)
	ctx, stop := context.WithTimeout(ctx, r.transfer())
	defer stop()
	kernel, err := r.upload(ctx, r.in.Kernel, "aki", "aki", nil)
	if err != nil {
		return "", err
	}
	initrd, err := r.upload(ctx, r.in.Initrd, "ari", "ari", nil)
	if err != nil {
		return "", err
	}
	image, err := r.upload(ctx, packed, "qcow2", "bare", map[string]string{
		// https://docs.openstack.org/nova/zed/admin/libvirt-misc.html, and glance's useful image properties: what QEMU gets on a worker.
		"kernel_id": kernel, "ramdisk_id": initrd, "os_command_line": testboot.GuestArguments(r.in, dataDevice) + " no_timer_check",
		"hw_disk_bus": "virtio", "hw_firmware_type": "bios", "hw_rng_model": "virtio", "architecture": "x86_64",
	})
	if err == nil {
		err = os.Remove(packed)
	}
	return image, local(err)
}

func (r *guest) properties() map[string]string {
	return map[string]string{keyGuest: "yes", KeyBootTest: r.key, KeyUntil: r.until}
}

func (r *guest) upload(ctx context.Context, path, format, container string, properties map[string]string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", local(err)
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return "", local(err)
	}
	n := catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "kiln-quarantine-boot", DiskFormat: format, ContainerFormat: container, Visibility: "private", Properties: r.properties(),
	}
	maps.Copy(n.Properties, properties)
	if _, err := r.store.CreateImage(ctx, n); err != nil {
		return "", err
	}
	return n.ID, r.store.Upload(ctx, n.ID, f, st.Size())
}

// snapshot gives the image of the disk of a server that is off.
func (r *guest) snapshot(ctx context.Context, serverID string) (image catalog.GlanceImage, err error) {
	ctx, stop := context.WithTimeout(ctx, r.transfer())
	defer stop()
	v, err := r.cfg.Nova.Server(ctx, r.project, serverID)
	if err != nil {
		return image, err
	}
	if v.Status != "SHUTOFF" {
		return image, errs.New(errs.Unavailable, testboot.CodeCloud, "The server of the quarantine boot is %s and not off: %s", v.Status, v.Fault).After(time.Minute)
	}
	id, err := r.cfg.Nova.Snapshot(ctx, r.project, serverID, "kiln-quarantine-boot", r.properties())
	if err != nil {
		return image, err
	}
	for {
		image, err = r.store.Image(ctx, id)
		switch {
		case err == nil && image.Status == "active":
			return image, nil
		case errs.Is(err, errs.NotFound), err == nil && (image.Status == "killed" || image.Status == "deleted"): // Nova deletes the image of a snapshot that failed
			return image, errs.New(errs.Unavailable, testboot.CodeCloud, "Nova could not make the image of the quarantine boot's disk.").After(time.Minute)
		case err != nil:
			return image, err
		}
		select {
		case <-ctx.Done():
			return image, errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), testboot.CodeCloud, "The image of the quarantine boot's disk is still %s.", image.Status)
		case <-time.After(r.cfg.Poll):
		}
	}
}

// bringBack replaces the copy's root file system. What comes was written by a guest, and on a host that ran it: its header is
// checked like that of any image.
func (r *guest) bringBack(ctx context.Context, image catalog.GlanceImage) error {
	ctx, stop := context.WithTimeout(ctx, r.transfer())
	defer stop()
	virtual := max(r.parcel.size, upTo(r.parcel.size, gib), r.flavor.Resources.DiskGB*gib)
	most := virtual + virtual/8 + 64*mib
	if image.Size > most {
		return errs.New(errs.Invalid, testboot.CodeGuest, "The disk of the quarantine boot has %d bytes; at most %d were expected.", image.Size, most)
	}
	body, err := r.store.Download(ctx, image.ID, 0)
	if err != nil {
		return err
	}
	came, raw, sum := filepath.Join(r.dir, "came"), filepath.Join(r.dir, "came.raw"), sha512.New()
	err = bring(ctx, body, came, most, sum)
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); image.HashAlgo == "sha512" && got != image.HashValue {
		return errs.New(errs.Unavailable, testboot.CodeCloud, "The disk of the quarantine boot came with the sha512 %s, and glance has %s.", got, image.HashValue)
	}
	from := disk.Image{Path: came, Format: image.DiskFormat}
	header, err := disk.CheckFile(from, disk.Limits{VirtualBytes: virtual, FileBytes: most})
	if err != nil {
		return err
	}
	if header.VirtualSize < r.parcel.start+r.parcel.length {
		return errs.New(errs.Invalid, testboot.CodeGuest, "The disk of the quarantine boot came back with %d bytes, and had %d.", header.VirtualSize, r.parcel.size)
	}
	if err := disk.ConvertScratch(ctx, from, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
		return err
	}
	return r.parcel.unpack(r.in, raw)
}

// clean removes the server, and then the images: a store may refuse to delete one that a server uses.
func (r *guest) clean(ctx context.Context) error {
	_, err := r.sweep(ctx, r.project, r.key)
	_, imagesErr := r.sweepImages(ctx, r.project, r.key)
	return errors.Join(err, imagesErr)
}

// sweepImages deletes the guests' images of the key, and those whose time is over.
func (b *Booter) sweepImages(ctx context.Context, project, key string) (int, error) {
	if b.cfg.Store == nil {
		return 0, nil
	}
	store := b.cfg.Store(project)
	images, err := store.Images(ctx, map[string]string{"owner": project, keyGuest: "yes"})
	if err != nil {
		return 0, err
	}
	swept := 0
	for _, i := range images {
		if i.Owner != project || i.Properties[keyGuest] != "yes" || !b.over(i.Properties, key) {
			continue
		}
		if deleteErr := store.DeleteImage(ctx, i.ID); deleteErr != nil && !errs.Is(deleteErr, errs.NotFound) {
			err = errors.Join(err, deleteErr)
			continue
		}
		swept++
	}
	return swept, err
}

func (r *guest) say(format string, args ...any) {
	if r.in.Log != nil {
		fmt.Fprintf(r.in.Log, format+"\n", args...) //nolint:errcheck // a log that fails must not fail the boot
	}
}
