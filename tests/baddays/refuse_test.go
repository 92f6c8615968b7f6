package baddays

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// daemons are the programs that run for ever.
var daemons = []string{"kiln-api", "kiln-engine", "kiln-worker", "kiln-agent"}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every program refuses to start with a policy file that it cannot read, and says where the fault is.
func TestPolicyFileWithAFault(t *testing.T) {
	needAll(t)
	policy := writeFile(t, "policy.yaml", "# one good rule\n\"recipe:list\": \"role:reader\"\n\"build:create\": \"role:admin and and\"\n")
	config := writeFile(t, "kiln.conf", "[keystone_authtoken]\nauth_url = http://127.0.0.1:1/v3\npassword = secret-word\n[database]\n"+
		"connection = sqlite:///"+t.TempDir()+"/kiln.sqlite\n[oslo_policy]\npolicy_file = "+policy+"\n")
	for _, name := range daemons {
		p := spawn(t, t.TempDir(), name, config)
		if code := p.status(); code == 0 || !strings.Contains(p.text(), policy+":3") || !strings.Contains(p.text(), "build:create") {
			t.Errorf("%s ended with status %d and says:\n%s", name, code, p.text())
		}
	}
}

// A configuration with several faults is refused with all of them at once, by file, line and option, and without
// the values of secrets.
func TestConfigurationWithFaults(t *testing.T) {
	needAll(t)
	config := writeFile(t, "kiln.conf", "[DEFAULT]\ntransport_url = secret-word\n[keystone_authtoken]\nauth_url = http://127.0.0.1:1/v3\npassword = x\ninterface = secretary\n"+
		"[api]\nbind_port = 99999\n[engine]\nparallel = many\n")
	for _, name := range daemons {
		p := spawn(t, t.TempDir(), name, config)
		code, text := p.status(), p.text()
		for _, want := range []string{config + ":2: [DEFAULT] transport_url", config + ":6: [keystone_authtoken] interface", config + ":8: [api] bind_port", config + ":10: [engine] parallel"} {
			if code == 0 || !strings.Contains(text, want) {
				t.Errorf("%s ended with status %d; %q is missing in:\n%s", name, code, want, text)
			}
		}
		if strings.Contains(text, "secret-word") {
			t.Errorf("%s tells a secret:\n%s", name, text)
		}
	}
}
