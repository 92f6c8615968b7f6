package main

import (
	"context"
	_ "embed" // the script
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
)

var (
	//go:embed plain.sh
	plainScript string
	//go:embed boot.sh
	bootScript string
	//go:embed virt.sh
	virtScript string
)

const (
	release  = "bookworm"
	parallel = 2
	many     = 50
)

// more is what every image has beside a bootable system: about what a web team's image has, so that 60 and more fixes are pending.
var more = []string{
	"curl", "vim-tiny", "rsync", "git", "gnupg", "man-db", "less", "bash-completion", "bind9-dnsutils", "libxml2", "libexpat1", "expat", "perl", "wget", "screen",
	"tcpdump", "python3-requests", "python3-httplib2", "xz-utils", "parted", "jq", "libarchive-tools", "libsasl2-modules", "imagemagick", "ghostscript", "poppler-utils",
	"postgresql-client", "mariadb-client", "php-cli", "php-curl", "php-gd", "php-sqlite3", "php-zip",
}

// variants are the eight images: a name, and what each has beside the common packages.
var variants = []string{
	"bare:", "nginx:nginx", "apache:apache2,libapache2-mod-php", "redis:redis-server", "postgres:postgresql", "haproxy:haproxy", "bind:bind9", "mariadb:mariadb-server",
}

// bench is where a run happens.
type bench struct {
	dir, cache string
	log        io.Writer // of what the upgrades say

	once       sync.Once // two proxies on one folder would take each other's files for left behind
	upstream   deb.Mirrors
	proxy      *mirror.Proxy
	errMirrors error
}

// fleet are the eight images.
func (b *bench) fleet() (debian.Fleet, error) {
	m, p, err := b.mirrors()
	return debian.Fleet{
		Release: release, Common: append(debian.System(), more...), Variants: variants, Dir: filepath.Join(b.cache, "upgrade-images"),
		Work: b.dir, Mirrors: m, Proxy: p,
	}, err
}

func (b *bench) mirrors() (deb.Mirrors, *mirror.Proxy, error) {
	b.once.Do(func() { b.upstream, b.proxy, b.errMirrors = debian.Mirrors(filepath.Join(b.cache, "packages")) })
	return b.upstream, b.proxy, b.errMirrors
}

// prepare makes the images where they are not there, and lets the proxy fetch what all contenders need.
func (b *bench) prepare(ctx context.Context) error {
	f, err := b.fleet()
	if err != nil {
		return err
	}
	if err := f.Make(ctx); err != nil {
		return err
	}
	mark := filepath.Join(filepath.Dir(f.Path(0)), "warm")
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	for i := range variants {
		if _, err := b.plain(ctx, f.Path(i)); err != nil {
			return err
		}
	}
	return os.WriteFile(mark, nil, 0o600)
}

// sources are the lines that the release's fixes come by.
func (b *bench) sources() (string, error) {
	m, _, err := b.mirrors()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("deb %[1]s %[3]s main\ndeb %[1]s %[3]s-updates main\ndeb %[2]s %[3]s-security main", m.Main, m.Security, release), nil
}

// plain upgrades one image by hand, and removes the result.
func (b *bench) plain(ctx context.Context, original string) (outcome, error) {
	sources, err := b.sources()
	if err != nil {
		return outcome{}, err
	}
	_, p, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	work, err := os.MkdirTemp(b.dir, "plain-*")
	if err != nil {
		return outcome{}, err
	}
	defer os.RemoveAll(work) //nolint:errcheck // the run's folder goes too
	begin := time.Now()
	text, err := debian.Shell(ctx, p, work, plainScript, work, original, filepath.Join(work, "out.qcow2"), sources)
	if err != nil {
		return outcome{}, err
	}
	n, err := strconv.Atoi(text)
	return outcome{Images: 1, Seconds: time.Since(begin).Seconds(), Packages: n}, err
}

func onePlain(ctx context.Context, b *bench) (outcome, error) {
	f, err := b.fleet()
	if err != nil {
		return outcome{}, err
	}
	return b.plain(ctx, f.Path(1))
}

func batchPlain(ctx context.Context, b *bench) (outcome, error) {
	f, err := b.fleet()
	if err != nil {
		return outcome{}, err
	}
	return inParallel(ctx, len(variants), func(ctx context.Context, i int) (outcome, error) { return b.plain(ctx, f.Path(i)) })
}

// inParallel does n images, parallel at a time, and tells how long that took.
func inParallel(ctx context.Context, n int, one func(ctx context.Context, i int) (outcome, error)) (outcome, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	var mu sync.Mutex
	var notes []string
	total := outcome{Images: n}
	begin := time.Now()
	for i := range n {
		group.Go(func() error {
			o, err := one(ctx, i)
			if err != nil {
				return fmt.Errorf("image %d: %w", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			total.Packages = o.Packages
			if o.Note != "" {
				notes = append(notes, o.Note)
			}
			return nil
		})
	}
	err := group.Wait()
	total.Seconds, total.Note = time.Since(begin).Seconds(), strings.Join(notes, "; ")
	return total, err
}

// layOut makes images that differ from each other: copies of the eight, each with a file of its own. They take the place
// of those before them.
func (b *bench) layOut(ctx context.Context, from, to int) ([]string, error) {
	originals, err := b.originals(to)
	if err != nil {
		return nil, err
	}
	var out []string
	raw, text := filepath.Join(b.dir, "many.raw"), filepath.Join(b.dir, "many.txt")
	for i := from; i < to; i++ {
		if err := disk.Convert(ctx, disk.Image{Path: originals[i], Format: disk.Qcow2}, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
			return nil, err
		}
		if err := os.WriteFile(text, fmt.Appendf(nil, "copy %d\n", i), 0o600); err != nil {
			return nil, err
		}
		write := exec.CommandContext(ctx, "debugfs", "-w", "-R", fmt.Sprintf("write %s /etc/copy", text), raw+"?offset=2097152")
		if said, err := write.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("debugfs: %w: %s", err, said)
		}
		file := filepath.Join(b.dir, fmt.Sprintf("many-%d.qcow2", i-from))
		if err := disk.Convert(ctx, disk.Image{Path: raw, Format: disk.Raw}, disk.Image{Path: file, Format: disk.Qcow2}, nil); err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, os.Remove(raw)
}

// accelerator is what guests run with here.
func accelerator() string {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		f.Close() //nolint:errcheck // only opened
		return "kvm"
	}
	return "tcg"
}

// given is what ways of other tools begin with.
func (b *bench) given() (debian.Fleet, string, error) {
	f, err := b.fleet()
	if err != nil {
		return f, "", err
	}
	sources, err := b.sources()
	return f, sources, err
}

// bootAndUpgrade lets the image upgrade itself.
func bootAndUpgrade(ctx context.Context, b *bench) (outcome, error) {
	f, sources, err := b.given()
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	text, err := debian.Shell(ctx, f.Proxy, b.dir, bootScript, b.dir, f.Path(1), sources, accelerator())
	if err != nil {
		return outcome{}, err
	}
	n, err := strconv.Atoi(text)
	return outcome{Images: 1, Seconds: time.Since(begin).Seconds(), Packages: n, Note: "host keys, machine-id and the first user's account are in the template afterwards"}, err
}

// virtCustomize is libguestfs' tool on a copy. It knows no proxy of its own: the environment's goes in. How many packages it
// changed it does not tell.
func virtCustomize(ctx context.Context, b *bench) (outcome, error) {
	f, sources, err := b.given()
	if err != nil {
		return outcome{}, err
	}
	file := filepath.Join(b.dir, "virt.qcow2")
	if err := disk.Convert(ctx, disk.Image{Path: f.Path(1), Format: disk.Qcow2}, disk.Image{Path: file, Format: disk.Qcow2}, nil); err != nil {
		return outcome{}, err
	}
	text, err := debian.Shell(ctx, f.Proxy, b.dir, virtScript, b.dir, file, sources, accelerator())
	if err != nil {
		return outcome{}, err
	}
	ms, err := strconv.ParseFloat(text, 64)
	return outcome{Images: 1, Seconds: ms / 1000, Note: "leaves kernels as they are: it upgrades, it does not dist-upgrade"}, err
}
