package scripts_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/testkit/rpmrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
)

// packageFile is the beginning of an rpm package that has texts by their tags.
func packageFile(texts map[uint32]string) []byte {
	header := func(texts map[uint32]string) []byte {
		var index, data []byte
		for tag, text := range texts {
			for _, n := range []uint32{tag, 6, uint32(len(data)), 1} {
				index = binary.BigEndian.AppendUint32(index, n)
			}
			data = append(append(data, text...), 0)
		}
		out := append([]byte("\x8e\xad\xe8\x01"), 0, 0, 0, 0)
		out = binary.BigEndian.AppendUint32(out, uint32(len(texts)))
		out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
		return append(append(out, index...), data...)
	}
	out := append([]byte("\xed\xab\xee\xdb"), make([]byte, 92)...)
	out = append(out, header(map[uint32]string{1000: "sig"})...) // four bytes: four more to the next multiple of eight
	return append(append(out, 0, 0, 0, 0), header(texts)...)
}

const (
	tagPre, tagPost, tagPreun, tagPosttrans, tagPostProgram = 1023, 1024, 1025, 1152, 1086
)

func TestScriptletsOfRPM(t *testing.T) {
	for name, c := range map[string]struct {
		texts map[uint32]string
		fresh bool
		want  upgrade.Script
		why   string
	}{
		"none":                    {nil, false, upgrade.ScriptNone, ""},
		"a file":                  {map[uint32]string{tagPost: "echo x >/etc/x"}, false, upgrade.ScriptSafe, ""},
		"a program":               {map[uint32]string{tagPostProgram: "/sbin/ldconfig"}, false, upgrade.ScriptSafe, ""},
		"a service":               {map[uint32]string{tagPost: "if [ $1 -ge 1 ] ; then\nsystemctl try-restart x.service || :\nfi"}, false, upgrade.ScriptDivert, "post line 2: systemctl try-restart x.service"},
		"systemd's macro":         {map[uint32]string{tagPreun: "if [ $1 -eq 0 ] && [ -x \"/usr/lib/systemd/systemd-update-helper\" ]; then\n/usr/lib/systemd/systemd-update-helper remove-system-units x || :\nfi"}, false, upgrade.ScriptSafe, ""},
		"a database":              {map[uint32]string{tagPosttrans: "su - postgres -c 'psql -f /usr/share/x.sql'"}, false, upgrade.ScriptRunning, "posttrans line 1: psql -f /usr/share/x.sql"},
		"at installation":         {map[uint32]string{tagPost: "if [ \"$1\" = 1 ]; then psql -f x; fi"}, false, upgrade.ScriptSafe, ""},
		"installed now":           {map[uint32]string{tagPost: "if [ \"$1\" = 1 ]; then psql -f x; fi"}, true, upgrade.ScriptRunning, "post line 1: psql -f x"},
		"at removal":              {map[uint32]string{tagPreun: "[ $1 -lt 1 ] && mysql -e 'drop database x'"}, false, upgrade.ScriptSafe, ""},
		"at anything but removal": {map[uint32]string{tagPreun: "[ $1 -eq 0 ] || mysql -e 'alter x'"}, false, upgrade.ScriptRunning, "preun line 1: mysql -e alter x"},
		"old versions' only":      {map[uint32]string{tagPreun: "psql -f x"}, true, upgrade.ScriptSafe, ""},
		"a case":                  {map[uint32]string{tagPre: "case \"$1\" in\n1) psql -f x;;\n2) true;;\nesac"}, false, upgrade.ScriptSafe, ""},
		"the kernel, at the end":  {map[uint32]string{tagPost: "true\nmodprobe x"}, false, upgrade.ScriptRunning, "post line 2: modprobe x"},
		"the kernel, in between":  {map[uint32]string{tagPost: "modprobe x\ntrue"}, false, upgrade.ScriptDivert, "post line 1: modprobe x"},
		"the kernel, with set -e": {map[uint32]string{tagPost: "set -e\nmodprobe x\ntrue"}, false, upgrade.ScriptRunning, "post line 2: modprobe x"},
		"the kernel, if it works": {map[uint32]string{tagPost: "modprobe x || :"}, false, upgrade.ScriptDivert, "post line 1: modprobe x"},
		"not the end":             {map[uint32]string{tagPost: "modprobe x\nif [ $1 -eq 1 ]; then true; fi"}, false, upgrade.ScriptDivert, "post line 1: modprobe x"},
		"lua":                     {map[uint32]string{tagPost: "os.execute(\"psql -f x\")", tagPostProgram: "<lua>"}, false, upgrade.ScriptRunning, "post line 2: psql psql -f x"},
	} {
		v, err := scripts.ClassifyRPM(bytes.NewReader(packageFile(c.texts)), c.fresh)
		if err != nil || v.Script != c.want || name != "lua" && v.Why != c.why {
			t.Errorf("%s: %+v %v", name, v, err)
		}
	}
	for _, text := range []string{"", "\xed\xab\xee\xdb", strings.Repeat("x", 500), string(packageFile(nil)[:120])} {
		if _, err := scripts.ClassifyRPM(strings.NewReader(text), false); errs.CodeOf(err) != rpm.CodePackage || !errs.Is(err, errs.Invalid) {
			t.Errorf("%.10q: %v", text, err)
		}
	}
}

// TestScriptletsOfARealPackage: rpmbuild made it.
func TestScriptletsOfARealPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("runs rpmbuild; not in -short")
	}
	p := rpmrepo.Package{Name: "many", Version: "1", Scripts: map[string]string{
		"pre": "echo one", "post -p <lua>": "print(1)", "posttrans": "echo two", "postun -p /sbin/ldconfig": "", "triggerin -- other": "echo three", "transfiletriggerin -- /usr": "echo four",
	}}
	data, err := os.ReadFile(p.Build(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := rpm.ReadScriptlets(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range got {
		all = append(all, s.Name+" "+s.Program+" "+strings.TrimSpace(s.Text))
	}
	want := "pre /bin/sh echo one|post <lua> print(1)|postun /sbin/ldconfig |posttrans /bin/sh echo two|trigger /bin/sh echo three|transfiletrigger /bin/sh echo four"
	if strings.Join(all, "|") != want {
		t.Errorf("%q", all)
	}
	v, err := scripts.ClassifyRPM(bytes.NewReader(data), false)
	if err != nil || v.Script != upgrade.ScriptSafe {
		t.Errorf("%+v %v", v, err)
	}
}

func FuzzScriptletsOfRPM(f *testing.F) {
	f.Add(packageFile(map[uint32]string{tagPost: "if [ $1 -eq 1 ]; then psql; fi", tagPostProgram: "/bin/sh"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := scripts.ClassifyRPM(bytes.NewReader(data), false); err != nil && !errs.Is(err, errs.Invalid) {
			t.Error(err)
		}
	})
}
