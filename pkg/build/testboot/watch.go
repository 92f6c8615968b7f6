package testboot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Bounds of what is kept and told of a console.
const (
	consoleHead = 256 << 10
	consoleTail = 768 << 10
	longLine    = 4 << 10
	logLines    = 4000
	toldLines   = 16
	toldBytes   = 2000
)

// Watch follows the console of one boot until it is decided. Write takes the console's bytes as they come; Wait
// returns when all was seen or cannot come any more.
type Watch struct {
	plan  Plan
	log   io.Writer
	start time.Time
	tell  func(text string, done, total int64)

	mu       sync.Mutex
	frames   *frames
	pending  []byte // a line that has not ended
	head     bytes.Buffer
	tail     []byte
	dropped  int64
	told     int // lines written to log
	recent   []string
	up       time.Duration
	login    bool
	wrong    string // words for the failure that was seen
	decided  chan struct{}
	done     bool
	changed  chan struct{}
	finished int // tests
}

// NewWatch begins now. log and tell may be nil.
func NewWatch(p Plan, log io.Writer, tell func(text string, done, total int64)) *Watch {
	if log == nil {
		log = io.Discard
	}
	if tell == nil {
		tell = func(string, int64, int64) {}
	}
	return &Watch{plan: p, log: log, tell: tell, start: time.Now(), frames: newFrames(p.Nonce), decided: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// Write takes a piece of the console. It never fails.
func (w *Watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep(p)
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		w.pending = append(w.pending, line...)
		if ended || len(w.pending) > longLine {
			text := string(w.pending)
			w.pending = w.pending[:0]
			w.line(text)
		}
	}
	// A prompt is a line that does not end.
	if text := printable(string(w.pending)); text != "" {
		w.judge(text[strings.LastIndexByte(text, '\n')+1:])
	}
	return len(p), nil
}

// keep holds the beginning and the end of the whole console.
func (w *Watch) keep(p []byte) {
	if room := consoleHead - w.head.Len(); room > 0 {
		n := min(room, len(p))
		w.head.Write(p[:n])
		p = p[n:]
	}
	w.tail = append(w.tail, p...)
	if over := len(w.tail) - consoleTail; over > consoleTail/2 {
		w.dropped += int64(over)
		w.tail = append(w.tail[:0], w.tail[over:]...)
	}
}

// line takes a whole line; one with carriage returns is several.
func (w *Watch) line(raw string) {
	seen, complete := w.frames.take(raw)
	if seen {
		for _, key := range complete {
			w.reported(key)
		}
		if w.frames.again && w.wrong == "" {
			w.wrong = "the machine restarted before its script had ended"
			w.decide()
		}
		return
	}
	for text := range strings.SplitSeq(strings.TrimRight(printable(raw), "\n \t"), "\n") {
		if text == "" {
			continue
		}
		if len(text) > 400 {
			text = strings.ToValidUTF8(text[:400], "") + "…"
		}
		w.recent = append(w.recent, text)
		if len(w.recent) > 4*toldLines {
			w.recent = append(w.recent[:0], w.recent[len(w.recent)-2*toldLines:]...)
		}
		w.say("| %s\n", text)
		w.judge(text)
	}
}

// say writes to the build's log; a guest cannot fill it.
func (w *Watch) say(format string, args ...any) {
	w.told++
	switch {
	case w.told < logLines:
		fmt.Fprintf(w.log, format, args...) //nolint:errcheck // a log that fails must not fail the boot
	case w.told == logLines:
		fmt.Fprintln(w.log, "The console says more than is kept here.") //nolint:errcheck // as above
	}
}

// judge looks for the end of hope and for the login prompt.
func (w *Watch) judge(text string) {
	if w.wrong == "" && !w.done {
		if w.wrong = failure(text); w.wrong != "" {
			w.decide()
		}
	}
	if !w.login && strings.Contains(text, "login:") && login.MatchString(text) {
		w.login = true
		if !w.plan.CloudInit {
			w.up = time.Since(w.start)
			w.done = true
			w.decide()
		}
		w.notify()
	}
}

func (w *Watch) reported(key string) {
	kind, index, _ := strings.Cut(key, ":")
	var i int
	fmt.Sscan(index, &i) //nolint:errcheck // the pattern allows digits alone
	total := int64(len(w.plan.Tests))
	switch kind {
	case "status":
		w.up = time.Since(w.start)
		text, _ := w.frames.get(kind, 0)
		w.say("cloud-init: %s after %.1f s\n", cloudInit(text), w.up.Seconds())
		if said, _ := cloudInitFailed(text); cloudInit(text) != "done" {
			w.say("%s", indented(said))
		}
	case "system":
		text, _ := w.frames.get(kind, 0)
		state, units, _ := strings.Cut(strings.TrimSpace(text), "\n")
		w.say("system: %s\n", state)
		if units != "" {
			w.say("failed units:\n%s\n", units)
		}
	case "start":
		if i < len(w.plan.Tests) {
			w.tell("test "+w.plan.Tests[i].Name, int64(i), total)
		}
	case "test":
		if i < len(w.plan.Tests) {
			w.finished++
			t, _ := w.frames.test(i, w.plan.Tests[i].Name)
			w.say("test %s: exit status %d after %.1f s\n%s", t.Name, t.Status, t.Seconds, indented(t.Output))
		}
	}
	w.notify()
	_, status := w.frames.get("status", 0)
	_, end := w.frames.get("end", 0)
	if !w.done && status && end && w.finished == len(w.plan.Tests) {
		w.done = true
		w.decide()
	}
}

// indented is the end of a test's output for the log.
func indented(text string) string {
	if text == "" {
		return ""
	}
	const most = 20
	if lines := strings.Split(text, "\n"); len(lines) > most {
		text = "…\n" + strings.Join(lines[len(lines)-most:], "\n")
	}
	return "  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n"
}

func (w *Watch) decide() {
	select {
	case <-w.decided:
	default:
		close(w.decided)
	}
}

func (w *Watch) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// settle is how long the console may go on after a failure was seen: a panic tells more.
const settle = 1500 * time.Millisecond

// Timeouts bound a boot. Zero means the default.
type Timeouts struct {
	Boot time.Duration // until the system is up; default 10 minutes
	Seed time.Duration // from the login prompt until the script speaks; default 4 minutes
}

// OrDefault fills in what is zero.
func (t Timeouts) OrDefault() Timeouts {
	if t.Boot <= 0 {
		t.Boot = 10 * time.Minute
	}
	if t.Seed <= 0 {
		t.Seed = 4 * time.Minute
	}
	return t
}

// Wait returns nil when everything was seen. ended is closed when the machine is off. The errors are Invalid with
// CodeBoot where the image is at fault, and CodeStop where ctx ended.
func (w *Watch) Wait(ctx context.Context, ended <-chan struct{}, limits Timeouts) error {
	limits = limits.OrDefault()
	deadline := time.NewTimer(limits.Boot)
	defer deadline.Stop()
	late := "the system was not up"
	seenUp, seenLogin := false, false
	for {
		select {
		case <-w.decided:
			return w.outcome(ctx, ended)
		case <-ended:
			select {
			case <-w.decided:
				return w.outcome(ctx, ended)
			default:
			}
			return w.broken("the machine switched off or restarted before all was seen")
		case <-ctx.Done():
			return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeStop, "The test boot was stopped.")
		case <-deadline.C:
			return w.broken(late)
		case <-w.changed:
		}
		up, hello, prompt := w.state()
		switch {
		case up && !seenUp:
			seenUp = true
			late = "the tests did not end"
			deadline.Reset(w.plan.TestTime())
		case w.plan.CloudInit && prompt && !hello && !seenLogin:
			seenLogin = true
			late = "the system came up, but its cloud-init did not run what it was given (its datasources must include NoCloud or ConfigDrive)"
			deadline.Reset(min(limits.Seed, max(0, limits.Boot-time.Since(w.start))))
		case hello && !seenUp:
			late = "cloud-init did not finish"
			deadline.Reset(max(0, limits.Boot-time.Since(w.start)))
		}
	}
}

func (w *Watch) state() (up, hello, prompt bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, hello = w.frames.get("hello", 0)
	_, up = w.frames.get("status", 0)
	return up, hello || up, w.login
}

func (w *Watch) outcome(ctx context.Context, ended <-chan struct{}) error {
	w.mu.Lock()
	wrong := w.wrong
	w.mu.Unlock()
	if wrong != "" {
		select { // the lines after it tell the cause
		case <-time.After(settle):
		case <-ended:
		case <-ctx.Done():
		}
		return w.broken(wrong)
	}
	return w.judgeReports()
}

// broken is the error of an image that does not come up, with the console's telling lines.
func (w *Watch) broken(what string) error {
	return errs.New(errs.Invalid, CodeBoot, "The image does not boot: %s after %s. %s", what, time.Since(w.start).Round(100*time.Millisecond), w.lastLines())
}

// lastLines are those of the console that tell most, for an error.
func (w *Watch) lastLines() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.recent
	if rest := strings.TrimSpace(printable(string(w.pending))); rest != "" {
		lines = append(lines, rest)
	}
	if text := telling(lines); text != "" {
		return "The console's last lines:\n" + text
	}
	return "The console is empty: the kernel may lack console=ttyS0."
}

// telling are the lines around the failure where one is among them, else the last ones.
func telling(lines []string) string {
	from := max(0, len(lines)-toldLines)
	for i, l := range lines {
		if failure(l) == "" {
			continue
		}
		const before = 4
		from = max(0, i-before)
		for size(lines[from:i]) > toldBytes/2 {
			from++
		}
		return cut(strings.Join(lines[from:min(len(lines), i+2*toldLines)], "\n"))
	}
	for size(lines[from:]) > toldBytes {
		from++
	}
	return strings.Join(lines[from:], "\n")
}

func size(lines []string) (n int) {
	for _, l := range lines {
		n += len(l) + 1
	}
	return n
}

func cut(text string) string {
	if len(text) > toldBytes {
		return strings.ToValidUTF8(text[:toldBytes], "") + "…"
	}
	return text
}

// judgeReports is the verdict on a boot that came to its end.
func (w *Watch) judgeReports() error {
	r := w.Report("", "")
	w.mu.Lock()
	text, _ := w.frames.get("status", 0)
	w.mu.Unlock()
	if text, fatal := cloudInitFailed(text); fatal && w.plan.CloudInit {
		return errs.New(errs.Invalid, CodeBoot, "cloud-init ended with the status %q:\n%s", r.CloudInit, text)
	}
	var failed []string
	for i, t := range r.Tests {
		switch {
		case t.Status == 0:
		case t.Seconds >= w.plan.Tests[i].Timeout.Seconds(): // coreutils' timeout ends with 124, busybox's with 143
			failed = append(failed, fmt.Sprintf("%s ran longer than %s%s", t.Name, w.plan.Tests[i].Timeout, quoted(t.Output)))
		default:
			failed = append(failed, fmt.Sprintf("%s ended with %d%s", t.Name, t.Status, quoted(t.Output)))
		}
	}
	if len(failed) > 0 {
		return errs.New(errs.Invalid, CodeBoot, "%d of %d tests failed in the booted image: %s", len(failed), len(r.Tests), strings.Join(failed, "; "))
	}
	return nil
}

func quoted(output string) string {
	if output == "" {
		return " without output"
	}
	const most = 600
	if len(output) > most {
		output = "…" + strings.ToValidUTF8(output[len(output)-most:], "")
	}
	return ":\n" + output
}

// Report is what was seen so far.
func (w *Watch) Report(method, firmware string) build.BootReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := build.BootReport{Method: method, Firmware: firmware, Seconds: w.up.Seconds(), Console: w.console()}
	if text, ok := w.frames.get("status", 0); ok {
		if r.CloudInit = cloudInit(text); r.CloudInit == "" {
			r.CloudInit = "unknown"
		}
	}
	for i, t := range w.plan.Tests {
		if c, ok := w.frames.test(i, t.Name); ok {
			r.Tests = append(r.Tests, c)
		}
	}
	return r
}

func (w *Watch) console() string {
	text := w.head.String()
	if w.dropped > 0 {
		text += fmt.Sprintf("\n[%d bytes are left out here]\n", w.dropped)
	}
	return printable(text + string(w.tail))
}
