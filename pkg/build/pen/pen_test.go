package pen_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func run(t *testing.T, spec pen.Spec, script string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root")
	}
	if spec.Dir == "" {
		spec.Dir = t.TempDir()
	}
	var out bytes.Buffer
	spec.Args, spec.Log = []string{"sh", "-c", script}, &out
	err := pen.Run(t.Context(), spec)
	return out.String(), err
}

// What a tool sees: its work folder, no disk of the host, no network but the proxy, nothing of our environment.
func TestView(t *testing.T) {
	t.Setenv("KILN_SECRET", "x")
	shown := filepath.Join(t.TempDir(), "shown")
	if err := os.WriteFile(shown, []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "proxied", r.URL) })
	out, err := run(t, pen.Spec{Dir: dir, Proxy: answer, Env: []string{"GIVEN=y"}, Binds: []pen.Bind{{Source: shown, Target: "in"}}}, `
pwd; echo $TMPDIR $GIVEN $KILN_SECRET $$; cat in; (echo x >in) 2>/dev/null || echo read-only
echo kept >made; echo gone >/tmp/there
ls /dev; grep -c : /proc/net/dev
curl -s -x http://127.0.0.1:3142 http://mirror.example.org/a`)
	if err != nil {
		t.Fatal(err, out)
	}
	for _, want := range []string{"/mnt\n/tmp y 1\nfrom the host\nread-only\n", "null", "\n1\nproxied http://mirror.example.org/a\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	for _, bad := range []string{"vda", "sda", "loop", "kvm", "mem"} {
		if strings.Contains(out, "\n"+bad) {
			t.Errorf("/dev has %s:\n%s", bad, out)
		}
	}
	for name, want := range map[string]string{"made": "kept\n", "tmp/there": "gone\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A tool that goes wrong is stopped, and its error says why, with what it said last.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		limits pen.Limits
		code   string
	}{
		"exit":   {"echo the reason >&2; exit 3", pen.Limits{}, pen.CodeExit},
		"time":   {"echo the reason; sleep 60 & sleep 60", pen.Limits{Time: time.Second}, pen.CodeTimeout},
		"memory": {"echo the reason; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo never", pen.Limits{MemoryBytes: 64 << 20}, pen.CodeMemory},
		"file":   {"echo the reason; head -c 2000000 /dev/zero >big || exit 1", pen.Limits{FileBytes: 1 << 20}, pen.CodeExit},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			out, err := run(t, pen.Spec{Limits: c.limits}, c.script)
			if errs.CodeOf(err) != c.code || !strings.Contains(err.Error(), "the reason") || strings.Contains(out, "never") {
				t.Errorf("%v\n%s", err, out)
			}
			if time.Since(start) > 20*time.Second {
				t.Errorf("it took %s", time.Since(start))
			}
		})
	}
}

// The processes that a tool leaves behind, in sessions of their own too, end with it, and with a cancel.
func TestNothingOutlives(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	for name, script := range map[string]string{"end": "setsid sleep 7654321 >/dev/null 2>&1 & exit 0", "cancel": "setsid sleep 7654321 & echo ready; wait"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := pen.Run(ctx, pen.Spec{Dir: t.TempDir(), Args: []string{"sh", "-c", script}, Line: func(string) { cancel() }})
			if name == "cancel" && !errs.Is(err, errs.Cancelled) || name == "end" && err != nil {
				t.Error(err)
			}
			left, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, p := range left {
				if text, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(text), "sleep\x007654321") {
					t.Errorf("%s runs on", p)
				}
			}
		})
	}
}

func TestMissing(t *testing.T) {
	if got := pen.Missing([]string{"sh", "no-such-program", "neither"}); got != "no-such-program" {
		t.Errorf("%q is missing", got)
	}
	if got := pen.Missing([]string{"sh"}); got != "" {
		t.Errorf("%q is missing", got)
	}
}
