package recipe_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// everything is a recipe with every field.
const everything = `name: everything
family: all
description: every field
from: {release: bookworm}
builder: {name: packer, needs: [gpu, arch=amd64, disk_gib>=50], template: packer/web.json, settings: {memory: "512"}}
values: {site: berlin}
packages: [sudo, nginx]
users: [{name: deploy, groups: [adm], shell: /bin/sh, sudo: true, ssh_keys: [ssh-ed25519 AAAA deploy]}]
files:
  - {path: /etc/motd, content: "{{.Values.site}} {{.Recipe}}", template: true, mode: "0600", owner: "root:adm"}
  - {path: /etc/x, source: files/x, template: true}
scripts: [{name: one, run: "true"}, {name: two, source: scripts/two.sh}]
services: {enable: [nginx.service], disable: [apt-daily.timer]}
steps:
  - {name: certificates, packages: [ca-certificates]}
  - run: update-ca-certificates
  - source: scripts/two.sh
  - users: [{name: web}]
  - files: [{path: /etc/y, source: files/x}]
  - services: {enable: [ssh.service]}
cloud_init: {datasources: [ConfigDrive, OpenStack]}
disk:
  size: 4GiB
  firmware: both
  partitions:
    - {label: data, size: 1GiB, mount: /srv}
    - {label: swap, size: 512MiB, filesystem: swap}
kernel: {package: linux-image-amd64, arguments: quiet}
output: {format: qcow2, also: [docker, vmdk]}
publish: {visibility: shared, members: [0123456789abcdef0123456789abcdef], protected: true, channel: testing}
tests: [{name: answers, run: curl -f http://localhost/, timeout: 90s}, {name: file, source: tests/file.sh}]
triggers: {no_push: true, schedule: "0 3 * * 1", advisory: high}
properties: {hw_disk_bus: virtio}
`

func repository(recipes ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, name := range []string{"files/x", "scripts/two.sh", "tests/file.sh", "packer/web.json"} {
		files[name] = &fstest.MapFile{Data: []byte("x")}
	}
	for _, text := range recipes {
		name, _, _ := strings.Cut(strings.TrimPrefix(text, "name: "), "\n")
		files["recipes/"+name+".yaml"] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

func load(t *testing.T, recipes ...string) *recipe.Set {
	t.Helper()
	set, err := recipe.Load(repository(recipes...))
	if err != nil || len(set.Faults) > 0 {
		t.Fatal(err, set.Faults)
	}
	return set
}

func TestPlanHasEveryStepWithItsPlace(t *testing.T) {
	t.Parallel()
	r, err := load(t, everything, "name: top\nfrom: {recipe: everything}\nvalues: {site: bonn, port: \"80\"}\nfiles: [{path: /z, source: files/x}]\n").Resolve("top")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Plan {
		got = append(got, s.Recipe+"/"+string(s.Kind)+"/"+s.Name+"@"+s.Where.String())
	}
	const file = "@recipes/everything.yaml"
	want := []string{
		"everything/packages/packages" + file + ":7: packages", "everything/users/users" + file + ":8: users", "everything/files/files" + file + ":9: files",
		"everything/script/one" + file + ":12: scripts[0]", "everything/script/two" + file + ":12: scripts[1]", "everything/services/services" + file + ":13: services",
		"everything/cloud_init/cloud-init" + file + ":21: cloud_init",
		"everything/packages/certificates" + file + ":15: steps[0]", "everything/script/script 2" + file + ":16: steps[1]", "everything/script/script 3" + file + ":17: steps[2]",
		"everything/users/users 4" + file + ":18: steps[3]", "everything/files/files 5" + file + ":19: steps[4]", "everything/services/services 6" + file + ":20: steps[5]",
		"top/files/files@recipes/top.yaml:4: files",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("plan\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// What a recipe stands on is the same for all that stand on it, so it does not see their values.
	if r.Plan[2].Values["site"] != "berlin" || r.Plan[13].Values["site"] != "bonn" || r.Plan[13].Values["port"] != "80" {
		t.Errorf("values %v, %v", r.Plan[2].Values, r.Plan[13].Values)
	}
}

func TestResolveMergesEveryField(t *testing.T) {
	t.Parallel()
	const member = "ffffffffffffffffffffffffffffffff"
	set := load(t, everything,
		"name: plain\nfrom: {recipe: everything}\n",
		"name: top\nfrom: {recipe: everything}\nbuilder: {name: packer, needs: [kvm]}\ndisk: {size: 3GiB, firmware: uefi, partitions: [{label: log, size: 256MiB, mount: /var/log}]}\n"+
			"output: {also: [vhd]}\npublish: {members: ["+member+"], channel: edge}\ntests: [{name: more, run: \"true\"}]\ncloud_init: {datasources: [NoCloud]}\n",
		"name: other\nfrom: {recipe: everything}\nbuilder: {name: native}\noutput: {format: raw}\n",
		"name: least\nfrom: {release: bookworm}\n")
	get := func(name string) *recipe.Recipe {
		r, err := set.Resolve(name)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	top := get("top")
	if top.Builder.Name != "packer" || strings.Join(top.Builder.Needs, " ") != "gpu arch=amd64 disk_gib>=50 kvm" || top.Builder.Template != "packer/web.json" {
		t.Errorf("builder %+v", top.Builder)
	}
	if top.Disk.Size != 3<<30 || top.Disk.Firmware != "uefi" || len(top.Disk.Partitions) != 1 || top.Disk.Partitions[0].Filesystem != "ext4" {
		t.Errorf("disk %+v", top.Disk)
	}
	if strings.Join(top.Output.Also, " ") != "vhd" || top.Publish.Visibility != "shared" || len(top.Publish.Members) != 2 || !top.Publish.Protected || top.Publish.Channel != "edge" {
		t.Errorf("output %+v, publish %+v", top.Output, top.Publish)
	}
	if len(top.Tests) != 3 || top.Tests[2].Wait() != recipe.DefaultTestTimeout || top.Tests[0].Wait() != 90*time.Second || top.CloudInit.Datasources[0] != "NoCloud" {
		t.Errorf("tests %+v, %+v", top.Tests, top.CloudInit)
	}
	if top.Triggers != (recipe.Triggers{}) {
		t.Errorf("triggers are not inherited: %+v", top.Triggers)
	}
	plain := get("plain")
	if plain.Builder.Name != "packer" || plain.Disk.Size != 4<<30 || plain.Disk.Firmware != "both" || len(plain.Disk.Partitions) != 2 || len(plain.Output.Also) != 2 || plain.Publish.Channel != "testing" {
		t.Errorf("what it stands on gives the rest: %+v", plain)
	}
	if other := get("other"); other.Builder.Name != "native" || other.Builder.Needs != nil || other.Builder.Template != "" || other.Output.Format != "raw" {
		t.Errorf("another builder takes nothing of the base's: %+v", other.Builder)
	}
	least := get("least")
	if least.Builder.Name != "native" || least.Disk.Size != recipe.DefaultSize || least.Disk.Firmware != "bios" || least.Output.Format != "qcow2" ||
		least.Publish.Visibility != "private" || least.Publish.Channel != "candidate" || least.Kernel.Package != recipe.DefaultKernel {
		t.Errorf("defaults %+v", least)
	}
}

// Each line is a field that is wrong, with what is said of it.
func TestRulesOfEveryField(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"from: {family: debian, release: bookworm}":  "2: from: give exactly one of release, recipe and family",
		"from: {release: bookworm, channel: stable}": "2: from.channel: a channel needs the family",
		"from: {family: debian, channel: Stable}":    "2: from.channel: \"Stable\" is neither a channel",
		"from: {}":                                                             "2: from: give exactly one of",
		"from: {release: \"\"}":                                                "2: from.release: release is empty",
		"builder: {name: docker}":                                              "3: builder.name: \"docker\": give native, packer or diskimage-builder",
		"builder: {needs: [\"disk > 5\"]}":                                     "3: builder.needs[0]: \"disk > 5\" is no need",
		"builder: {needs: [builder=packer]}":                                   "3: builder.needs[0]: the builder is named by builder.name",
		"builder: {template: x.json}":                                          "3: builder.template: this is for the builder packer",
		"builder: {name: packer, template: ../x.json}":                         "3: builder.template: \"../x.json\" leaves the repository",
		"builder: {name: packer, elements: [vm]}":                              "3: builder.elements: this is for the builder diskimage-builder",
		"builder: {name: diskimage-builder, elements: [../vm]}":                "3: builder.elements[0]: \"../vm\" is not the name of an element",
		"builder: {name: diskimage-builder, settings: {LD_PRELOAD: x}}":        "3: builder.settings.LD_PRELOAD: \"LD_PRELOAD\": settings of diskimage-builder begin with DIB_",
		"values: {a-b: x}":                                                     "3: values.a-b: \"a-b\": a template cannot name it",
		"values: {a: x, a: y}":                                                 "3: values.a: \"a\" is given twice",
		"files: [{path: /a, content: x}, {path: /a, content: y}]":              "3: files[1].path: \"/a\" is given twice",
		"files: [{path: /proc/x, content: x}]":                                 "3: files[0].path: \"/proc/x\": what is there comes from the running kernel",
		"files: [{path: /a, content: \"{{.Values\", template: true}]":          "3: files[0].content: not a template",
		"files: [{path: /a, content: \"{{range 9}}{{end}}\", template: true}]": "3: files[0].content: not a template: range goes over .Values",
		"files: [{path: /a, content: '{{define \"x\"}}{{template \"x\"}}{{end}}',template: true}]": "3: files[0].content: not a template: define",
		"files: [{path: /a, content: x, template: yes please}]":                                    "3: files[0].template: expected true or false",
		"users: [{name: a, sudo: true}]":                                                           "3: users[0].sudo: sudo: true needs the package sudo",
		"users: [{name: a}, {name: a}]":                                                            "3: users[1].name: \"a\" is given twice",
		"users: [{name: a, ssh_keys: [\"a\\nb\"]}]":                                                "3: users[0].ssh_keys[0]: a key is one line",
		"users: [{name: a, shell: \"/bin/sh:x\"}]":                                                 "3: users[0].shell: ",
		"scripts: [{name: a, run: x, source: y}]":                                                  "3: scripts[0]: give exactly one of run and source",
		"scripts: [{name: a, run: \"\"}]":                                                          "3: scripts[0].run: run is empty",
		"scripts: [{name: a, run: \"a\\0b\"}]":                                                     "3: scripts[0].run: a text has no zero bytes",
		"services: {enable: [a.service], disable: [a.service]}":                                    "3: services.disable[0]: \"a.service\" is enabled and disabled at once",
		"steps: [{name: a}]":                                                                       "3: steps[0]: give exactly one of packages, users, files, run, source and services",
		"steps: [{run: a, packages: [bb]}]":                                                        "3: steps[0]: give exactly one of",
		"steps: [{packages: []}]":                                                                  "3: steps[0].packages: packages is empty",
		"steps: [{services: {}}]":                                                                  "3: steps[0].services: services is empty",
		"steps: [{packages: [A]}]":                                                                 "3: steps[0].packages[0]: \"A\" is not a Debian package name",
		"steps: [{users: [{name: a, sudo: true}]}, {packages: [sudo]}]":                            "3: steps[0].users[0].sudo: sudo: true needs",
		"steps: [{files: [{path: /a, source: /etc/passwd}]}]":                                      "3: steps[0].files[0].source: \"/etc/passwd\" leaves the repository",
		"cloud_init: {datasources: [EC2]}":                                                         "3: cloud_init.datasources[0]: \"EC2\" is no datasource",
		"cloud_init: {datasources: [Ec2, Ec2]}":                                                    "3: cloud_init.datasources[1]: \"Ec2\" is given twice",
		"disk: {firmware: efi}":                                                                    "3: disk.firmware: \"efi\": give bios, uefi or both",
		"disk: {size: 100MiB}":                                                                     "3: disk.size: 100MiB: a disk has 512MiB at least",
		"disk: {partitions: [{label: root, size: 1GiB}]}":                                          "3: disk.partitions[0].label: \"root\" is the name of one of the system's own",
		"disk: {partitions: [{label: a, size: 64MiB}, {label: a, size: 64MiB}]}":                   "3: disk.partitions[1].label: \"a\" is given twice",
		"disk: {partitions: [{label: a, size: 64MiB, mount: /usr/local}]}":                         "3: disk.partitions[0].mount: \"/usr/local\" is the system's own",
		"disk: {partitions: [{label: a, size: 64MiB, mount: /srv/../etc}]}":                        "3: disk.partitions[0].mount: \"/srv/../etc\": give an absolute path",
		"disk: {partitions: [{label: a, size: 64MiB, mount: /srv, filesystem: swap}]}":             "3: disk.partitions[0].mount: swap is mounted nowhere",
		"disk: {partitions: [{label: a, size: 64MiB, filesystem: xfs}]}":                           "3: disk.partitions[0].filesystem: \"xfs\": give ext4 or swap",
		"disk: {partitions: [{label: a, size: 1GiB}, {label: b, size: 1GiB}]}":                     "3: disk.partitions: the partitions take 2GiB of the disk's 2GiB",
		"disk: {partitions: [{size: 1MiB, label: a}]}":                                             "3: disk.partitions[0].size: 1MiB: a partition has 16MiB at least",
		"kernel: {arguments: \"a;b\"}":                                                             "3: kernel.arguments: only letters",
		"output: {also: [docker, docker]}":                                                         "3: output.also[1]: \"docker\" is given twice",
		"output: {also: [qcow2]}":                                                                  "3: output.also[0]: \"qcow2\" is the format of the VM image already",
		"output: {also: [iso]}":                                                                    "3: output.also[0]: \"iso\": give docker",
		"publish: {visibility: shared, members: [demo]}":                                           "3: publish.members[0]: \"demo\" is not the id of a project",
		"publish: {members: [0123456789abcdef0123456789abcdef]}":                                   "3: publish.members: only an image of visibility shared has members",
		"publish: {channel: 20260101.1}":                                                           "3: publish.channel: expected text, found a number",
		"publish: {visibility: everyone}":                                                          "3: publish.visibility: \"everyone\": give private",
		"tests: [{name: a, run: x}, {name: a, run: y}]":                                            "3: tests[1].name: \"a\" is given twice",
		"tests: [{name: a, run: x, timeout: 2h}]":                                                  "3: tests[0].timeout: \"2h\": give a time from 1s to 1h",
		"tests: [{name: a, run: x, timeout: soon}]":                                                "3: tests[0].timeout: \"soon\": give a time",
		"tests: [{name: a}]":                                                                       "3: tests[0]: give exactly one of run and source",
		"triggers: {schedule: \"0 25 * * *\"}":                                                     "3: triggers.schedule: \"0 25 * * *\" is not a cron expression",
		"triggers: {schedule: \"0 0 30 2 *\"}":                                                     "3: triggers.schedule: \"0 0 30 2 *\": that moment never comes",
		"triggers: {schedule: \"TZ=\"}":                                                            "3: triggers.schedule: \"TZ=\": write minute",
		"triggers: {schedule: \"@every 1h\"}":                                                      "3: triggers.schedule: \"@every 1h\": write minute",
		"triggers: {base: true}":                                                                   "3: triggers.base: there is no base whose channel could move",
		"triggers: {advisory: urgent}":                                                             "3: triggers.advisory: \"urgent\": give low, medium, high or critical",
		"properties: {kiln_x: a}":                                                                  "3: properties.kiln_x: properties that begin with kiln_",
		"? [a]\n: b":                                                                               "3: the name of a field is plain text, not a list",
		"---\nname: b":                                                                             "3: a file is one recipe",
	} {
		full := "name: a\nfrom: {release: bookworm}\n" + text + "\n"
		if strings.HasPrefix(text, "from:") {
			full = "name: a\n" + text + "\n"
		}
		_, err := recipe.Parse("r.yaml", []byte(full))
		var faults recipe.ParseErrors
		if !errors.As(err, &faults) || len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), "r.yaml:"+want) {
			t.Errorf("%s\n got  %v\n want r.yaml:%s", text, err, want)
		}
	}
}

func TestSetFindsWhatOneFileCannotTell(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"from: {recipe: everything}\ndisk: {size: 1GiB}":                                     "3: disk.partitions: the partitions take 1536MiB of the disk's 1GiB",
		"from: {recipe: everything}\npublish: {visibility: private}":                         "3: publish.members: only an image of visibility shared",
		"from: {recipe: everything}\ntriggers: {base: true}":                                 "3: triggers.base: there is no base",
		"from: {recipe: bare}\nusers: [{name: a, sudo: true}]":                               "3: users[0].sudo: sudo: true needs",
		"from: {recipe: bare}\nsteps: [{files: [{path: /a, source: files/none}]}]":           "3: steps[0].files[0].source: \"files/none\" cannot be read",
		"from: {recipe: bare}\nsteps: [{source: files}]":                                     "3: steps[0].source: \"files\" cannot be read",
		"from: {recipe: bare}\ntests: [{name: a, source: tests/none}]":                       "3: tests[0].source: \"tests/none\" cannot be read",
		"from: {recipe: bare}\nbuilder: {name: packer, template: packer/none.json}":          "3: builder.template: \"packer/none.json\" cannot be read",
		"from: {recipe: bare}\nfiles: [{path: /a, source: files/broken, template: true}]":    "3: files[0].source: not a template",
		"from: {recipe: everything}\nusers: [{name: root2, sudo: true}]\ndisk: {size: 1GiB}": "4: disk.partitions: the partitions take",
	} {
		files := repository(everything, "name: bare\nfrom: {release: bookworm}\n", "name: bad\n"+text+"\n", "name: child\nfrom: {recipe: bad}\n")
		files["files/broken"] = &fstest.MapFile{Data: []byte("{{")}
		set, err := recipe.Load(files)
		if err != nil {
			t.Fatal(err)
		}
		faults := set.Faults["recipes/bad.yaml"]
		if len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), "recipes/bad.yaml:"+want) {
			t.Errorf("%s\n got  %v\n want %s", text, faults, want)
		}
		if child := set.Faults["recipes/child.yaml"]; len(child) != 1 || child[0].Where != (errs.Where{File: "recipes/child.yaml", Line: 2, Field: "from.recipe"}) {
			t.Errorf("%s: what stands on it: %v", text, child)
		}
		if _, err := set.Resolve("child"); !errs.Is(err, errs.NotFound) {
			t.Errorf("resolving what stands on a faulty recipe: %v", err)
		}
	}
}

func TestCronAndUrgency(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{"0 3 * * 1": "2026-03-02T03:00", "@monthly": "2026-04-01T00:00", "*/15 * * * *": "2026-03-01T12:15"} {
		s, err := recipe.Triggers{Schedule: text}.Cron()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Next(from).Format("2006-01-02T15:04"); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	for word, want := range map[string]int{"low": 1, "medium": 2, "high": 3, "HIGH (security)": 3, "emergency": 4, "critical": 4, "": 0, "soon": 0} {
		if got := recipe.UrgencyRank(word); got != want {
			t.Errorf("%q has rank %d", word, got)
		}
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	d := recipe.TemplateData{Values: map[string]string{"site": "berlin", "ports": "80 443"}, Recipe: "web", Family: "debian"}
	got, err := recipe.Render("motd", `{{upper .Values.site}} {{.Recipe}}/{{.Family}}{{range split " " .Values.ports}} :{{.}}{{end}}{{range $k, $v := .Values}} {{$k}}{{end}}`, d)
	if err != nil || got != "BERLIN web/debian :80 :443 ports site" {
		t.Errorf("%q, %v", got, err)
	}
	for name, text := range map[string]string{
		"a value that is not there": "{{.Values.none}}",
		"a text that doubles":       "{{$x := .Values.site}}" + strings.Repeat("{{$x = print $x $x}}", 30),
		"a wide number":             `{{printf "%99999999d" 1}}`,
		"a width from outside":      `{{printf "%*d" 99999999 1}}`,
		"loops in loops":            "{{range .Values}}{{range $.Values}}x{{end}}{{end}}",
	} {
		if _, err := recipe.Render("f", text, d); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
