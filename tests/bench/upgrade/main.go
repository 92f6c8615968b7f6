// Command upgrade compares ways to bring the packages of Debian images up to date: Kiln, the same work done by hand (plain),
// virt-customize, and a boot of the image. It prints a table and asserts nothing: times belong to a machine.
// `make bench-upgrade` runs it; BENCH=one,batch,many,foreign chooses.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/tests/bench/measure"
)

// contender is one row of the table: a child process of this program.
type contender struct {
	name    string // as -run takes it
	group   string // as BENCH names it
	says    string // what was done
	against string // row that it is held against; "" for none
	times   int    // it is run so often, and the median counts
	tools   []string
	run     func(ctx context.Context, b *bench) (outcome, error)
}

// outcome is what a contender tells of itself.
type outcome struct {
	Images   int     `json:"images"`
	Seconds  float64 `json:"seconds"`  // of the work alone, without laying out its images
	Packages int     `json:"packages"` // changed in the last image
	Note     string  `json:"note"`     // in words
}

// contenders in the order of the run.
var contenders = []contender{
	{"one-plain", "one", "plain: convert, mount, chroot dist-upgrade, convert back", "", 3, nil, onePlain},
	{"one-cold", "one", "Kiln, the first image that it ever sees", "one-plain", 1, nil, oneCold},
	{"one-kiln", "one", "Kiln, one image after another one, dpkg does all the work", "one-plain", 3, nil, oneKiln},
	{"batch-plain", "batch", "plain, 8 images, 2 at a time", "", 1, nil, batchPlain},
	{"batch-kiln", "batch", "Kiln, 8 images, 2 at a time, all costs in", "batch-plain", 1, nil, batchKiln},
	{"many-kiln", "many", "Kiln, 50 images, 2 at a time, all costs in", "batch-plain", 1, nil, manyKiln},
	{"virt-customize", "foreign", "virt-customize --update (QEMU's " + strings.ToUpper(accelerator()) + ")", "", 1, []string{"virt-customize"}, virtCustomize},
	{"boot", "foreign", "boot a copy, dist-upgrade in it, shut it down (QEMU's " + strings.ToUpper(accelerator()) + ")", "", 1, []string{"qemu-system-x86_64"}, bootAndUpgrade},
}

func main() {
	dir := flag.String("dir", "", "folder on a disk with 60 GB; made and removed where left out")
	cache := flag.String("cache", "", "folder that keeps packages and images from run to run; below the user's cache where left out")
	run := flag.String("run", "", "one contender, in this process (used by the program itself)")
	log := flag.String("log", "", "file for what Kiln's upgrades say, one after another; nowhere where left out")
	which := flag.String("bench", "", "comma list of one, batch, many, foreign; all where left out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := start(ctx, *dir, *cache, *run, *which, *log)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, dir, cache, run, which, log string) (err error) {
	if cache == "" {
		if cache, err = os.UserCacheDir(); err != nil {
			return err
		}
		cache = filepath.Join(cache, "kiln-bench")
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("/var/tmp", "kiln-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // what stays is below /var/tmp
	}
	b := &bench{dir: dir, cache: cache, log: io.Discard}
	if log != "" {
		f, err := os.Create(log)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // a log
		b.log = f
	}
	if run != "" {
		i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == run })
		if i < 0 {
			return fmt.Errorf("there is no contender %q", run)
		}
		out, err := contenders[i].run(ctx, b)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	}
	return b.all(ctx, which)
}

// all makes the images and runs the chosen contenders one after another, each in a process of its own.
func (b *bench) all(ctx context.Context, which string) error {
	fmt.Fprintf(os.Stderr, "%s  making the images and fetching the packages, once …\n", time.Now().Format(time.TimeOnly))
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var rows []row
	for _, c := range contenders {
		if which != "" && !slices.Contains(strings.Split(which, ","), c.group) {
			continue
		}
		if i := slices.IndexFunc(c.tools, func(t string) bool { _, err := exec.LookPath(t); return err != nil }); i >= 0 {
			rows = append(rows, row{contender: c, note: "not run: " + c.tools[i] + " is not installed"})
			continue
		}
		fmt.Fprintf(os.Stderr, "%s  %s …\n", time.Now().Format(time.TimeOnly), c.says)
		rows = append(rows, b.measure(ctx, c))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return table(os.Stdout, rows)
}

// row is one line of the table.
type row struct {
	contender
	measure.Usage
	outcome
	note string // why there are no figures
}

// measure runs a contender as often as it says; the run with the median time is the row.
func (b *bench) measure(ctx context.Context, c contender) row {
	var runs []row
	var progress io.Writer // other tools say too much
	if strings.HasSuffix(c.name, "-kiln") {
		progress = os.Stderr
	}
	for range c.times {
		r := row{contender: c}
		out, used, err := measure.Child(ctx, 90*time.Minute, progress, "-run", c.name, "-dir", b.dir, "-cache", b.cache)
		if err == nil {
			err = json.Unmarshal(out, &r.outcome)
		}
		if err != nil {
			r.note = "failed: " + err.Error()
			return r
		}
		r.Usage = used
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b row) int {
		if a.Seconds < b.Seconds {
			return -1
		}
		return 1
	})
	return runs[len(runs)/2]
}
