package native_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const stepped = `name: stepped
from: {release: bookworm}
disk: {size: 3GiB}
values: {greeting: hello}
files:
  - {path: /etc/greeting, content: "{{.Values.greeting}} from {{.Recipe}}\n", template: true}
  - {path: /etc/initramfs-tools/modules, content: "loop\n"}
  - {path: /srv/data, source: data}
steps:
  - name: three
    run: grep -q "^hello from stepped$" /etc/greeting && echo three >/srv/three
  - name: four
    run: cat /srv/data /srv/three >/srv/four
`

func construct(t *testing.T, b *native.Builder, text, data string, fresh bool) (build.Result, string, error) {
	t.Helper()
	dir := t.TempDir()
	var log bytes.Buffer
	res, err := b.Build(t.Context(), build.Request{Recipe: parse(t, text), Files: fstest.MapFS{"data": {Data: []byte(data)}}, WorkDir: dir,
		Output: filepath.Join(dir, "out.qcow2"), Log: &log, Fresh: fresh})
	return res, log.String(), err
}

// ran are the steps whose result was not there.
func ran(res build.Result) []string {
	var out []string
	for _, s := range res.Steps {
		if !s.Cached {
			out = append(out, s.Name)
		}
	}
	return out
}

func TestOnlyWhatChangedRuns(t *testing.T) {
	b := builder(t)
	t.Parallel()
	broken := strings.Replace(stepped, "cat /srv/data", "false; cat /srv/data", 1)
	_, log, err := construct(t, b, broken, "one\n", false)
	if errs.CodeOf(err) != native.CodeScript {
		t.Fatalf("%v\n%s", err, log)
	}
	if n := strings.Count(log, "update-initramfs: Generating"); n == 0 || strings.Contains(log, "== files: as in") {
		t.Errorf("a file of the initramfs was laid, and it was made %d times", n)
	}
	for _, c := range []struct {
		what, text, data string
		want             []string
	}{
		{"after a failed fourth step", stepped, "one\n", []string{"four", "finish", "convert"}},
		{"again", stepped, "one\n", []string{"convert"}},
		{"other name of a step", strings.Replace(stepped, "name: three", "name: drei", 1), "one\n", []string{"convert"}},
		{"other fourth step", strings.Replace(stepped, "/srv/four", "/srv/vier", 1), "one\n", []string{"four", "finish", "convert"}},
		{"other bytes of a file", stepped, "two\n", []string{"files", "three", "four", "finish", "convert"}},
		{"other value of a template", strings.Replace(strings.Replace(stepped, "greeting: hello", "greeting: hallo", 1), "^hello", "^hallo", 1), "one\n",
			[]string{"files", "three", "four", "finish", "convert"}},
	} {
		res, log, err := construct(t, b, c.text, c.data, false)
		if err != nil || !slices.Equal(ran(res), c.want) {
			t.Errorf("%s: ran %v, want %v: %v\n%s", c.what, ran(res), c.want, err, log)
		}
	}
	planned, err := b.Plan(t.Context(), build.Request{Recipe: parse(t, stepped), Files: fstest.MapFS{"data": {Data: []byte("three\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range planned {
		if p.Key == "" || p.Cached != (i == 0) {
			t.Errorf("planned %+v", p)
		}
	}
}

func TestFaultsOfStepsNameTheirPlace(t *testing.T) {
	b := builder(t)
	t.Parallel()
	const head = "name: bad\nfrom: {release: bookworm}\ndisk: {size: 3GiB}\n"
	for _, c := range []struct{ text, code, field, says string }{
		{"files:\n  - {path: /a, content: x}\n  - {path: /b, content: '{{.Values.none}}', template: true}", native.CodeFile, "files[1]", "none"},
		{"steps:\n  - name: lay\n    files: [{path: /a, source: nowhere}]", native.CodeFile, "steps[0].files[0]", "/a"},
		{"scripts: [{name: s, source: nowhere}]", native.CodeScript, "scripts[0]", "nowhere"},
		{"steps:\n  - name: units\n    services: {disable: [cron.service]}\n  - name: more units\n    services: {enable: [none.service]}", native.CodeService, "steps[1].services.enable[0]", "none.service"},
		{"steps:\n  - name: owned\n    files: [{path: /a, content: x, owner: nobody-here}]", native.CodeFile, "steps[0]", "nobody-here"},
	} {
		_, _, err := construct(t, b, head+c.text+"\n", "", false)
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Where.Field != c.field || e.Where.File == "" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}
