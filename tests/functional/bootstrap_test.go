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
	for _, want := range []string{"made the user " + name(s.id, "service"), "gave the role admin in all projects", name(s.id, "region")} {
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
	src := s.source(t)
	out, err := command(t.Context(), env, filepath.Join(s.bin, "kiln"), "source", "list", "-f", "json")
	if err != nil {
		t.Fatal(err)
	}
	var sources []struct{ ID string }
	if err := json.Unmarshal([]byte(out), &sources); err != nil || len(sources) != 1 || sources[0].ID != src.ID {
		t.Errorf("kiln source list gives %v, error %v", sources, err)
	}
	if out, err := command(t.Context(), append(env, "OS_REGION_NAME=nowhere"), filepath.Join(s.bin, "kiln"), "source", "list"); err == nil || !strings.Contains(out, "bootstrap") {
		t.Errorf("in a region without Kiln: error %v, output %q", err, out)
	}
}
