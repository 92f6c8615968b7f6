package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// row is one way to know the facts of n images.
type row struct {
	key, says, against, tool string
	n                        int
	run                      func(ctx context.Context, i int, m image) (cost, error)

	took     []time.Duration // each image, sorted
	total    time.Duration
	cpu      time.Duration // of this process, which is also the server
	share    float64       // of the images' bytes
	asked    float64       // questions an image
	packages int
	note     string
}

func (r *row) measure(ctx context.Context, s *set) error {
	if r.tool != "" && !has(r.tool) {
		r.note = "not run: " + r.tool + " is not installed"
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	var read, size, asked int64
	begin, worked := time.Now(), cpu()
	for i := range r.n {
		m := s.image(i)
		at := time.Now()
		c, err := r.run(ctx, i, m)
		if err != nil {
			return fmt.Errorf("image %d (%s): %w", i, m.Name(), err)
		}
		r.took = append(r.took, time.Since(at))
		read, size, asked, r.packages = read+c.bytes, size+m.size, asked+c.questions, max(r.packages, c.packages)
	}
	r.total, r.cpu = time.Since(begin), cpu()-worked
	r.share, r.asked = 100*float64(read)/float64(size), float64(asked)/float64(r.n)
	slices.Sort(r.took)
	return nil
}

func (r row) median() time.Duration { return r.took[len(r.took)/2] }

// table prints the rows; each ratio is the median of an image against the median of an image.
func table(to io.Writer, rows []row) error {
	out := &strings.Builder{}
	columns := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(columns, "what\timages\ttotal s\tms an image\tCPU ms\t99 of 100 ms\tread %\tquestions\tpackages\ttimes faster\t") //nolint:errcheck // to a builder
	for _, r := range rows {
		if r.note != "" {
			fmt.Fprintf(columns, "%s\t–\t–\t–\t–\t–\t–\t–\t–\t–\t\n", r.says) //nolint:errcheck // to a builder
			continue
		}
		ratio, read, asked := "", "", ""
		if i := slices.IndexFunc(rows, func(o row) bool { return r.against != "" && o.key == r.against }); i >= 0 && rows[i].note == "" {
			ratio = fmt.Sprintf("%.0f", rows[i].median().Seconds()/r.median().Seconds())
		}
		if r.asked > 0 {
			read, asked = fmt.Sprintf("%.2f", r.share), fmt.Sprintf("%.0f", r.asked)
		}
		fmt.Fprintf(columns, "%s\t%d\t%.1f\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t\n", r.says, r.n, r.total.Seconds(), ms(r.median()), ms(r.cpu/time.Duration(r.n)), ms(r.took[len(r.took)*99/100]), read, asked, r.packages, ratio) //nolint:errcheck // to a builder
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if r.note != "" {
			fmt.Fprintf(out, "\n%s: %s\n", r.says, r.note)
		}
	}
	_, err := io.WriteString(to, out.String()+"\n")
	return err
}

// cpu is what this process has worked: on a machine that others use, too, it says more than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
