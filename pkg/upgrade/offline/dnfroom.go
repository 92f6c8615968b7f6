package offline

import (
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// estimate tells what the new packages have more than those that they replace, by their own sizes. It is for the first
// look only: rpm itself counts files and blocks before it changes anything. A database of which rpm reads less than is in
// it is refused: what rpm does not see would not be upgraded, and the image be called good.
func (d *dnf) estimate(ctx context.Context) error {
	text, err := d.query(ctx, "--root", hostdnf.ImageInside, "-qa", "--qf", `%{NAME}.%{ARCH}\t%{LONGSIZE}\n`)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodePackages, "the image's rpm database cannot be asked")
	}
	old, known := map[string]int64{}, 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "gpg-pubkey.") {
			known++
		}
		id, size, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil && n > 0 {
			old[id] = n
		}
	}
	if known != len(d.had) {
		return errs.New(errs.Invalid, CodePackages, "the image's rpm database is damaged: rpm reads %d of its %d packages", known, len(d.had))
	}
	d.run.plan.grows = 0
	for _, a := range d.comes {
		d.run.plan.grows += a.size
		if !installOnly(a.Name) {
			d.run.plan.grows -= old[a.id()]
		}
	}
	return nil
}

// measureRPM is measure without the blocks that are kept for root: rpm does not take those.
func (d *dnf) measureRPM(root *os.Root) error {
	if err := d.measure(root); err != nil {
		return err
	}
	st, err := statFileSystem(root)
	if err != nil {
		return err
	}
	d.short.free = int64(st.Bavail) * st.Bsize
	d.short.lack = d.short.needed - d.short.free
	return nil
}

// upgrade lets dnf do what it planned, with the packages that were fetched and without any network. Where rpm finds, before
// it changes anything, that the file system is too small, the disk grows as far as the policy lets it, once.
func (d *dnf) upgrade(ctx context.Context) error {
	output, err := d.dnf(ctx, false, d.options()...)
	bytes, inodes := hostdnf.Lacks(output)
	if errs.CodeOf(err) != CodeDiskFull || bytes+inodes == 0 {
		return err
	}
	if err := d.inRoot(d.measureRPM); err != nil {
		return err
	}
	d.short.needed, d.short.lack = d.short.free+bytes, bytes
	d.short.wanted, d.short.lackInodes = d.short.inodes+inodes, inodes
	if err := d.makeRoom(ctx); err != nil {
		return err
	}
	_, err = d.dnf(ctx, false, d.options()...)
	return err
}
