package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/kiln-cloud/kiln/tests/bench/measure"
)

// table prints the rows with their ratios to Kiln's row of the same kind: cold to cold, added to added.
func table(to io.Writer, rows []row) error {
	out, w := &strings.Builder{}, &strings.Builder{}
	at := map[string]row{}
	for _, r := range rows {
		at[r.name] = r
	}
	fmt.Fprintf(out, "\n%s\n\n", versions())
	fmt.Fprintln(w, "what\twall s\tCPU s\tpeak MB\tlargest MB\timage MB\tkept MB\twall / Kiln\tCPU / Kiln\t")
	for _, r := range rows {
		if r.note != "" {
			fmt.Fprintf(w, "%s\t–\t–\t–\t–\t–\t–\t–\t–\t\n", r.says)
			continue
		}
		wall, cpu := "", ""
		if k := at[counterpart(r.name)]; k.Wall > 0 && k.name != r.name {
			wall, cpu = fmt.Sprintf("%.2f", r.Wall.Seconds()/k.Wall.Seconds()), fmt.Sprintf("%.2f", r.CPU.Seconds()/k.CPU.Seconds())
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%d\t%d\t%d\t%d\t%s\t%s\t\n", r.says, r.Wall.Seconds(), r.CPU.Seconds(), r.Peak/1e6, r.One/1e6, r.image/1e6, r.kept/1e6, wall, cpu)
	}
	columns := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(columns, w.String()); err != nil {
		return err
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if cold, add := at["kiln-cold"], at["kiln-add"]; cold.Wall > 0 && add.Wall > 0 {
		fmt.Fprintf(out, "Kiln: a package added costs 1/%.1f of cold.", cold.Wall.Seconds()/add.Wall.Seconds())
		if f := at["floor"]; f.Wall > 0 {
			fmt.Fprintf(out, " Cold is %.2f times the floor (CPU %.2f).", cold.Wall.Seconds()/f.Wall.Seconds(), cold.CPU.Seconds()/f.CPU.Seconds())
		}
		fmt.Fprintln(out)
	}
	for _, r := range rows {
		if r.note != "" {
			fmt.Fprintf(out, "%s: %s\n", r.says, r.note)
		}
		if r.disk != "" {
			fmt.Fprintf(out, "%s: %s\n", r.says, r.disk)
		}
	}
	_, err := io.WriteString(to, out.String())
	return err
}

// counterpart is the row of Kiln that another is held against.
func counterpart(name string) string {
	if strings.HasSuffix(name, "-add") {
		return "kiln-add"
	}
	return "kiln-cold"
}

// versions names what was measured, on what.
func versions() string {
	var out []string
	for _, c := range [][]string{{"mmdebstrap", "--version"}, {"qemu-img", "--version"}, {"packer", "version"}, {"mkosi", "--version"}} {
		text, err := exec.Command(c[0], c[1:]...).Output() //nolint:noctx // fixed programs that only print
		if err == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			out = append(out, c[0]+" ("+strings.TrimSpace(line)+")")
		}
	}
	text, err := exec.Command("dpkg-query", "-W", "-f", "diskimage-builder ${Version}", "python3-diskimage-builder").Output() //nolint:noctx // only prints
	if err == nil {
		out = append(out, string(text))
	}
	return measure.Machine() + ", guests of packer under QEMU's TCG\n" + strings.Join(out, ", ")
}
