package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/term"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Screen shows what is going on: one line a step, rewritten in place on a terminal.
type Screen struct {
	out   io.Writer
	live  bool // a terminal: lines can be rewritten
	width int

	mu    sync.Mutex
	began time.Time
	step  string
	stage string
}

// NewScreen writes to out.
func NewScreen(out io.Writer) *Screen {
	s := &Screen{out: out, width: 100}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.live = true
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			s.width = w
		}
	}
	return s
}

// Begin names the step that starts.
func (s *Screen) Begin(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.step, s.stage = time.Now(), step, ""
	s.rewrite("…")
}

// Job shows how far a job is.
func (s *Screen) Job(u client.JobUpdate) {
	p := u.Job.Progress
	text := p.Stage
	switch {
	case p.Total > 0 && p.Unit == "bytes":
		text += fmt.Sprintf(" %s of %s", Bytes(p.Done), Bytes(p.Total))
	case p.Total > 0:
		text += fmt.Sprintf(" %d of %d %s", p.Done, p.Total, p.Unit)
	}
	if u.Job.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d)", u.Job.Attempt)
	}
	if u.Job.State == job.Pending {
		text = "waiting for a free " + string(u.Job.Queue)
	}
	s.show(p.Stage, text)
}

// Note shows a line about the step.
func (s *Screen) Note(format string, args ...any) { s.show(format, fmt.Sprintf(format, args...)) }

func (s *Screen) show(stage, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		s.rewrite(text)
		return
	}
	// A file or a pipe gets one line a stage, so that it stays readable.
	if stage != s.stage && stage != "" {
		fmt.Fprintf(s.out, "        %5.1fs  %s: %s\n", time.Since(s.began).Seconds(), s.step, text) //nolint:errcheck // a screen that is gone changes nothing
	}
	s.stage = stage
}

func (s *Screen) rewrite(text string) {
	if !s.live {
		return
	}
	line := fmt.Sprintf("  …  %6.1fs  %s: %s", time.Since(s.began).Seconds(), s.step, text)
	if r := []rune(line); len(r) > s.width-1 {
		line = string(r[:s.width-1])
	}
	fmt.Fprint(s.out, "\r\033[K"+line) //nolint:errcheck // a screen that is gone changes nothing
}

// End says how the step ended.
func (s *Screen) End(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		fmt.Fprint(s.out, "\r\033[K") //nolint:errcheck // a screen that is gone changes nothing
	}
	fmt.Fprintf(s.out, "  %6.1fs  %-34s %s\n", time.Since(s.began).Seconds(), s.step, fmt.Sprintf(format, args...)) //nolint:errcheck // as above
}

// Bytes writes a number of bytes for people: "1.5 GiB".
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := float64(n)/unit, "KMGTPE"
	i := 0
	for ; value >= unit && i < len(names)-1; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %ciB", value, names[i])
}

// Table writes the closing table.
func (o *Outcome) Table(out io.Writer) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"what", "result"})
	row := func(what, format string, args ...any) { t.AppendRow(table.Row{what, fmt.Sprintf(format, args...)}) }
	row("built", "%s-%s, image %s, %s", o.From.Family, o.From.Name, o.From.ImageID, Bytes(o.FromImage.Size))
	row("upgraded", "%s-%s, image %s, %s", o.To.Family, o.To.Name, o.To.ImageID, Bytes(o.ToImage.Size))
	if o.Report != nil {
		row("packages upgraded", "%d, downloaded %s", len(o.Report.Packages), Bytes(o.Report.Downloaded))
		row("CVEs in their changelogs", "%d: %s", len(o.Report.CVEs), some(o.Report.CVEs, 4))
		if o.Report.KernelTo != "" {
			row("kernel", "%s → %s", o.Report.KernelFrom, o.Report.KernelTo)
		}
	}
	for _, c := range o.Copies {
		row("copy in "+c.Cluster, "%s %s: %s, %s", c.Store, c.Node, Bytes(c.Bytes), c.State)
	}
	row("VM", "%s on %s, %d downloads from Glance", o.VM.ExternalID, o.VM.Node, o.Downloads)
	for _, line := range o.Lines {
		row("  its console", "%s", line)
	}
	if o.Container != nil {
		row("container", "%s on %s", o.Container.ExternalID, o.Container.Node)
	}
	var total float64
	for _, s := range o.Steps {
		total += s.Seconds
	}
	t.AppendSeparator()
	for _, s := range o.Steps {
		row(s.Name, "%.1f s", s.Seconds)
	}
	row("together", "%.1f s", total)
	t.Render()
}

func some(list []string, n int) string {
	if len(list) > n {
		return strings.Join(list[:n], " ") + fmt.Sprintf(" and %d more", len(list)-n)
	}
	return strings.Join(list, " ")
}
