package functional

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRealBootstrap(t *testing.T) {
	s := kiln(t)
	for _, want := range []string{"made the user " + name(s.id, "service"), "inherit", name(s.id, "region")} {
		if want == "inherit" {
			want = "gave the role admin in all projects"
		}
		if !strings.Contains(s.bootstrapped, want) {
			t.Errorf("the first bootstrap said nothing of %q:\n%s", want, s.bootstrapped)
		}
	}
	again, err := s.bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(again) != "nothing to do" {
		t.Errorf("the second bootstrap changed something:\n%s", again)
	}
	schema, err := command(t.Context(), nil, filepath.Join(s.bin, "kiln-manage"), "--config-file", s.conf("kiln"), "db", "sync")
	if err != nil || !strings.Contains(schema, "schema ") {
		t.Errorf("db sync again: %v\n%s", err, schema)
	}

	// The command line finds the API in the catalog's region alone.
	env := []string{
		"OS_AUTH_URL=" + os.Getenv("KILN_TEST_AUTH_URL"), "OS_USERNAME=" + name(s.id, "member"), "OS_PASSWORD=" + secret(),
		"OS_PROJECT_NAME=" + name(s.id, "project"), "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
		"OS_USER_DOMAIN_ID=", "OS_PROJECT_DOMAIN_ID=", "OS_CLOUD=", "KILN_ENDPOINT=", "OS_REGION_NAME=" + name(s.id, "region"),
	}
	out, err := command(t.Context(), env, filepath.Join(s.bin, "kiln"), "node", "list", "-f", "json")
	if err != nil {
		t.Fatal(err)
	}
	var nodes []struct{ Name string }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil || len(nodes) < 4 {
		t.Errorf("kiln node list gives %v, error %v", nodes, err)
	}
	if out, err := command(t.Context(), append(env, "OS_REGION_NAME=nowhere"), filepath.Join(s.bin, "kiln"), "node", "list"); err == nil || !strings.Contains(out, "bootstrap") {
		t.Errorf("in a region without Kiln: error %v, output %q", err, out)
	}
}
