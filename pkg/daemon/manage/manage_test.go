package manage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/daemon/manage"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := manage.New(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// The samples that ship are those that the program writes: `make generate` renews them.
func TestSamplesAreUpToDate(t *testing.T) {
	for command, file := range map[string]string{"config": "kiln.conf.sample", "policy": "policy.yaml.sample"} {
		want, err := run(t, command, "sample")
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Join("..", "..", "..", "etc", "kiln", file))
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != want {
			t.Errorf("etc/kiln/%s is not what kiln-manage %s sample writes: run make generate", file, command)
		}
	}
}

func TestSchemaComesOnceAndIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kiln.conf")
	text := "[database]\nconnection = sqlite:///" + filepath.Join(t.TempDir(), "kiln.sqlite") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "--config-file", file, "status", "upgrade", "check"); err == nil || !strings.Contains(err.Error(), "kiln-manage db sync") {
		t.Errorf("before the schema came: %v", err)
	}
	for range 2 {
		if out, err := run(t, "--config-file", file, "db", "sync"); err != nil || !strings.HasPrefix(out, "schema ") {
			t.Errorf("db sync said %q, error %v", out, err)
		}
	}
	if out, err := run(t, "--config-file", file, "status", "upgrade", "check"); err != nil || !strings.Contains(out, "success") {
		t.Errorf("the check said %q, error %v", out, err)
	}
}

func TestBootstrapWithoutAnAdministratorSaysWhatIsMissing(t *testing.T) {
	t.Setenv("OS_AUTH_URL", "")
	file := filepath.Join(t.TempDir(), "kiln.conf")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "--config-file", file, "bootstrap", "--public-url", "http://kiln.example.test:9790"); err == nil || !strings.Contains(err.Error(), "OS_AUTH_URL") {
		t.Errorf("error %v", err)
	}
}
