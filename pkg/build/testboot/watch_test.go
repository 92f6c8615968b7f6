package testboot_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func plan(t *testing.T, tests ...string) testboot.Plan {
	t.Helper()
	in := build.BootTest{Facts: &catalog.Facts{CloudInit: true}}
	for _, name := range tests {
		in.Tests = append(in.Tests, build.BootCommand{Name: name, Text: "true", Timeout: time.Minute})
	}
	p, err := testboot.NewPlan(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// frame is one report as the guest writes it, in parts of 8 characters.
func frame(p testboot.Plan, kind string, index int, text string) []string {
	data := base64.StdEncoding.EncodeToString([]byte(text))
	var chunks []string
	for len(data) > 8 {
		chunks, data = append(chunks, data[:8]), data[8:]
	}
	chunks = append(chunks, data)
	var lines []string
	for i, c := range chunks {
		body := fmt.Sprintf("%s:%d:%d:%d:%s", kind, index, i+1, len(chunks), c)
		sum := sha256.Sum256([]byte(body))
		lines = append(lines, fmt.Sprintf("@kiln:%s:%s:%s@\r\n", p.Nonce, body, hex.EncodeToString(sum[:4])))
	}
	return lines
}

func wait(t *testing.T, w *testboot.Watch) error {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	return w.Wait(ctx, nil, testboot.Timeouts{Boot: 3 * time.Second})
}

func TestReportsSurviveTheConsole(t *testing.T) {
	p := plan(t, "one", "two")
	var log safeLog
	w := testboot.NewWatch(p, &log, nil)
	lines := frame(p, "status", 0, "status: done\n")
	lines = append(lines, frame(p, "test", 0, "0 1.00 2.50\nhello \x1b[31mred\x07")...)
	lines = append(lines, frame(p, "test", 1, "0 3.00 3.10\n")...)
	lines = append(lines, frame(p, "end", 0, "\n")...)
	other := p
	other.Nonce = strings.Repeat("0", 32)
	fmt.Fprint(w, frame(other, "test", 0, "1 1 1\nforged")[0])
	fmt.Fprint(w, strings.Replace(lines[0], "c3RhdHVz", "c3RhdHVa", 1)) // a letter was lost on the way
	for _, line := range slices.Backward(lines) {                       // in any order, behind other text, in small pieces
		text := "kiln login: [   12.3] kernel: " + line
		for len(text) > 7 {
			fmt.Fprint(w, text[:7])
			text = text[7:]
		}
		fmt.Fprint(w, text)
	}
	if err := wait(t, w); err != nil {
		t.Fatal(err)
	}
	r := w.Report("qemu", "bios")
	if r.CloudInit != "done" || len(r.Tests) != 2 || r.Tests[0].Output != "hello red" || r.Tests[0].Seconds != 1.5 {
		t.Errorf("%+v", r)
	}
	if strings.Contains(log.String(), "\x1b") || strings.Contains(log.String(), "@kiln:"+p.Nonce) || strings.Contains(log.String(), "forged") {
		t.Errorf("the log: %q", log.String())
	}
}

func TestAFloodIsBounded(t *testing.T) {
	w := testboot.NewWatch(plan(t), nil, nil)
	line := strings.Repeat("x", 1000) + "\n"
	fmt.Fprintln(w, "the beginning")
	for range 20_000 {
		fmt.Fprint(w, line)
	}
	fmt.Fprint(w, "Kernel panic - not syncing: the end")
	err := wait(t, w)
	if errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), "the end") || len(err.Error()) > 4000 {
		t.Errorf("%.300v", err)
	}
	c := w.Report("", "").Console
	if len(c) > 2<<20 || !strings.HasPrefix(c, "the beginning") || !strings.Contains(c, "bytes are left out here") || !strings.HasSuffix(c, "the end") {
		t.Errorf("%d bytes are kept: %.100s", len(c), c)
	}
}

func TestConsolesWithoutHope(t *testing.T) {
	for line, want := range map[string]string{
		"[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)": "the kernel panicked",
		"You are in emergency mode. After logging in, type":                                        "emergency mode",
		"(initramfs) ":                                 "initial RAM disk",
		"\x1b[0;37;40mgrub rescue> ":                   "GRUB",
		"Give root password for maintenance":           "emergency mode",
		"No bootable device.":                          "nothing to boot",
		"UEFI Interactive Shell v2.2":                  "nothing to boot",
		"Gave up waiting for root file system device.": "initial RAM disk",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			w := testboot.NewWatch(plan(t), nil, nil)
			fmt.Fprint(w, "booting\r\n"+line)
			if err := wait(t, w); errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", line, err)
			}
		})
	}
	w := testboot.NewWatch(plan(t), nil, nil)
	fmt.Fprint(w, "systemd[1]: Listening on emergency thing\r\npress e to edit, grub menu\r\n")
	if err := wait(t, w); err == nil || !strings.Contains(err.Error(), "the system was not up") {
		t.Errorf("%v", err)
	}
}

func TestReadingTests(t *testing.T) {
	files := fstest.MapFS{"tests/web": {Data: []byte("curl -f localhost")}}
	got, err := testboot.Tests(&recipe.Recipe{Tests: []recipe.Test{{Name: "a", Run: "true"}, {Name: "b", Source: "tests/web", Timeout: "90s"}}}, files)
	if err != nil || len(got) != 2 || got[0].Timeout != 5*time.Minute || got[1].Text != "curl -f localhost" || got[1].Timeout != 90*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	for field, bad := range map[string]recipe.Test{"tests[0].source": {Name: "x", Source: "../x"}, "tests[0].timeout": {Name: "x", Run: "true", Timeout: "soon"}, "tests[0].run": {Name: "x", Run: strings.Repeat("x", 1<<20)}} {
		_, err := testboot.Tests(&recipe.Recipe{Path: "r.yaml", Tests: []recipe.Test{bad}}, files)
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "r.yaml: "+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestTheScriptIsAShellScript: whatever the tests hold.
func TestTheScriptIsAShellScript(t *testing.T) {
	p := plan(t, "a", "b")
	p.Tests[0].Text = "echo 'E\nE\n$(reboot)`\n" + strings.Repeat("\x00\xff'", 500)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-n")
	cmd.Stdin = strings.NewReader(string(p.UserData()))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(string(p.UserData()), "reboot") {
		t.Error("a test's text is in the script as it is")
	}
}

// TestARestartIsNoEnd: the lines of one hello come three times; another one is that of another boot.
func TestARestartIsNoEnd(t *testing.T) {
	p, err := testboot.NewGuestPlan()
	if err != nil {
		t.Fatal(err)
	}
	hello := func(w *testboot.Watch, boot string) { fmt.Fprint(w, strings.Join(frame(p, "hello", 0, boot), "")) }
	run := func(boots ...string) error {
		w, off := testboot.NewWatch(p, nil, nil), make(chan struct{})
		for _, b := range boots {
			hello(w, b)
		}
		fmt.Fprint(w, strings.Join(frame(p, "end", 0, "x"), ""))
		close(off)
		return w.WaitGuest(t.Context(), off, time.Minute, time.Minute)
	}
	if err := run("one", "one", "one"); err != nil {
		t.Error(err)
	}
	if err := run("one", "two"); errs.CodeOf(err) != testboot.CodeGuest || !strings.Contains(err.Error(), "the machine restarted") {
		t.Errorf("%v", err)
	}
}
