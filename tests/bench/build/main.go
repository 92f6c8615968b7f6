// Command build compares image builders on the same packages in one run and prints a table. It asserts nothing:
// times belong to a machine. `make bench-build` runs it; BENCH=floor,kiln chooses.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// contender is one row of the table: a child process of this program.
type contender struct {
	name  string // as -run takes it
	group string // as BENCH names it
	says  string // what was done
	tools []string
	run   func(ctx context.Context, b *bench) (outcome, error)
}

// contenders in the order of the run: what a later one stands on is made by an earlier one.
var contenders = []contender{
	{"floor", "floor", "mmdebstrap + mke2fs -d + GRUB + qemu-img", []string{"mmdebstrap", "grub-mkimage"}, floor},
	{"kiln-cold", "kiln", "Kiln, nothing kept", nil, kilnCold},
	{"kiln-same", "kiln", "Kiln, nothing changed: says so", nil, kilnSame},
	{"kiln-again", "kiln", "Kiln, nothing changed: the image again", nil, kilnAgain},
	{"kiln-add", "kiln", "Kiln, one package added in the last step", nil, kilnAdd},
	{"kiln-base", "packer", "Kiln: the base image that packer starts from", nil, kilnBase},
	{"dib-stock", "dib", "diskimage-builder as it comes (the full kernel), nothing kept", []string{"disk-image-create"}, dibStock},
	{"dib-cold", "dib", "diskimage-builder by Kiln (the cloud kernel), nothing kept", []string{"disk-image-create"}, dibCold},
	{"dib-add", "dib", "diskimage-builder by Kiln, one package added", []string{"disk-image-create"}, dibAdd},
	{"packer-cold", "packer", "packer QEMU on the base image", []string{"packer"}, packerCold},
	{"packer-add", "packer", "packer QEMU, one package added", []string{"packer"}, packerAdd},
	{"mkosi-cold", "mkosi", "mkosi, nothing kept", []string{"mkosi"}, mkosiCold},
	{"mkosi-add", "mkosi", "mkosi, one package added", []string{"mkosi"}, mkosiAdd},
}

func main() {
	dir := flag.String("dir", "", "folder on a disk with 20 GB; made and removed where left out")
	cache := flag.String("cache", "", "folder that keeps fetched packages from run to run; below the user's cache where left out")
	run := flag.String("run", "", "one contender, in this process (used by the program itself)")
	which := flag.String("bench", "", "comma list of floor, kiln, dib, packer, mkosi; all where left out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := start(ctx, *dir, *cache, *run, *which)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, dir, cache, run, which string) (err error) {
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
	b := &bench{dir: dir, cache: cache}
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

// all runs the chosen contenders one after another, each in a process of its own.
func (b *bench) all(ctx context.Context, which string) error {
	var rows []row
	if err := b.warm(ctx); err != nil {
		return err
	}
	for _, c := range contenders {
		if which != "" && !slices.Contains(strings.Split(which, ","), c.group) {
			continue
		}
		if missing := lacking(c.tools); missing != "" {
			rows = append(rows, row{contender: c, note: "not run: " + missing + " is not installed"})
			continue
		}
		fmt.Fprintf(os.Stderr, "%s  %s …\n", time.Now().Format(time.TimeOnly), c.says)
		r := b.measure(ctx, c)
		if r.note != "" {
			fmt.Fprintf(os.Stderr, "          %s\n", r.note)
		}
		rows = append(rows, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return table(os.Stdout, rows)
}

// warm fetches the packages once, so that the first contender does not pay for all.
func (b *bench) warm(ctx context.Context) error {
	mark := filepath.Join(b.cache, "warm")
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "%s  fetching the packages, once …\n", time.Now().Format(time.TimeOnly))
	if r := b.measure(ctx, contender{name: "kiln-cold"}); r.note != "" {
		return fmt.Errorf("the packages cannot be fetched: %s", r.note)
	}
	return os.WriteFile(mark, nil, 0o600)
}

func lacking(tools []string) string {
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			return t
		}
	}
	return ""
}
