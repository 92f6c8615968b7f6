// Command collect measures what it costs to know the facts of a thousand images: from local files, over HTTP ranges, and
// beside the ways of whoever has neither. It prints a table and asserts nothing: times belong to a machine.
// `make bench-collect` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
	"github.com/kiln-cloud/kiln/tests/bench/measure"
)

func main() {
	dir := flag.String("images", "", "folder with qcow2 images of Debian, without compressed clusters; those of bench-upgrade, or a new one, where left out")
	count := flag.Int("count", 1000, "images")
	few := flag.Int("few", 8, "images of the slow ways")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := start(ctx, *dir, *count, *few)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, dir string, count, few int) error {
	if dir == "" {
		var err error
		if dir, err = images(ctx); err != nil {
			return err
		}
	}
	set, err := openSet(dir, count)
	if err != nil {
		return err
	}
	defer set.close()
	s, err := serve(set)
	if err != nil {
		return err
	}
	defer s.Close()
	work, err := os.MkdirTemp("/var/tmp", "kiln-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // below /var/tmp
	rows := []row{
		{says: "Kiln, local file, all facts", run: localAll, n: max(few, count/10)},
		{says: "Kiln, local file, as collected", run: local, n: count, against: "virt-inspector"},
		{says: "Kiln, HTTP Range", run: s.ranges, n: count, against: "whole"},
		{says: "Kiln, HTTP Range, 5 ms a question", run: s.slowly, n: max(few, count/20), against: "whole"},
		{key: "whole", says: "the whole over HTTP, then the same", run: s.whole(work), n: few},
		{key: "virt-inspector", says: "virt-inspector (QEMU's TCG)", run: virtInspector, n: 1, tool: "virt-inspector"},
	}
	if _, err := fmt.Fprintf(os.Stdout, "\n%s; %d images: %d real ones of %s to %s on disk, each variant with other bytes; their files are in memory by the second round\n\n",
		measure.Machine(), count, len(set.files), mib(set.smallest), mib(set.largest)); err != nil {
		return err
	}
	for i := range rows {
		if err := rows[i].measure(ctx, set); err != nil {
			return fmt.Errorf("%s: %w", rows[i].says, err)
		}
	}
	return table(os.Stdout, rows)
}

// images gives the folder with the images of bench-upgrade; where there are none, it makes one.
func images(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "kiln-bench")
	dir := filepath.Join(cache, "upgrade-images")
	if found, err := filepath.Glob(filepath.Join(dir, "*.qcow2")); err != nil || len(found) > 0 {
		return dir, err
	}
	m, p, err := debian.Mirrors(filepath.Join(cache, "packages"))
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp("/var/tmp", "kiln-bench-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work) //nolint:errcheck // below /var/tmp
	dir = filepath.Join(cache, "collect-images")
	f := debian.Fleet{Release: "bookworm", Common: debian.System(), Variants: []string{"bare:"}, Dir: dir, Work: work, Mirrors: m, Proxy: p}
	return dir, f.Make(ctx)
}

// has reports whether a tool is installed.
func has(tool string) bool {
	_, err := exec.LookPath(tool)
	return err == nil
}

const limit = 30 * time.Minute
