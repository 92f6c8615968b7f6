package version

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheLinkerSetsTheVersion(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "version.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary,
		"-ldflags", "-X github.com/kiln-cloud/kiln/pkg/version.release=9.8.7", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary, "-test.run", "^TestUserAgent$", "-test.v").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "kiln/9.8.7") {
		t.Fatalf("the linked version is not told: %v\n%s", err, out)
	}
}

func TestUserAgent(t *testing.T) {
	t.Log(UserAgent())
	if UserAgent() != "kiln/"+String() || String() == "" {
		t.Errorf("UserAgent is %q, String is %q", UserAgent(), String())
	}
}
