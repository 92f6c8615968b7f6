package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/kiln-cloud/kiln/tests/bench/measure"
)

// table prints the rows; each ratio is seconds an image against seconds an image.
func table(to io.Writer, rows []row) error {
	out, lines := &strings.Builder{}, &strings.Builder{}
	at := map[string]row{}
	for _, r := range rows {
		at[r.name] = r
	}
	fmt.Fprintf(out, "\n%s; no ratio is claimed against what runs in a guest: the accelerator decides it\n\n", measure.Machine())
	fmt.Fprintln(lines, "what\timages\tpackages\twall s\ts an image\tCPU s\tstolen %\tpeak MB\ttimes faster than plain\t")
	for _, r := range rows {
		if r.note != "" {
			fmt.Fprintf(lines, "%s\t–\t–\t–\t–\t–\t–\t–\t–\t\n", r.says)
			continue
		}
		each, ratio := r.Seconds/float64(max(r.Images, 1)), ""
		if p := at[r.against]; p.Seconds > 0 {
			ratio = fmt.Sprintf("%.1f", p.Seconds/float64(max(p.Images, 1))/each)
		}
		fmt.Fprintf(lines, "%s\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%s\t\n", r.says, r.Images, r.Packages, r.Seconds, each, r.CPU.Seconds(), 100*r.Stolen, r.Peak/1e6, ratio)
	}
	columns := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(columns, lines.String()); err != nil {
		return err
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, r := range rows {
		if text := r.note + r.Note; text != "" {
			fmt.Fprintf(out, "%s: %s\n", r.says, text)
		}
	}
	_, err := io.WriteString(to, out.String())
	return err
}
