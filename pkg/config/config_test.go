package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kiln.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What DevStack's helpers write is read as oslo.config reads it.
func TestLoadReadsDevStackFile(t *testing.T) {
	file := write(t, `[DEFAULT]
transport_url = rabbit://stackrabbit:s%23cret;x@127.0.0.1:5672/
debug = True
[database]
connection = mysql+pymysql://root:p%40ss%25@127.0.0.1/kiln?charset=utf8&plugin=dbcounter
[keystone_authtoken]
auth_url = http://127.0.0.1/identity
password = a#b;c "quoted"
username = kiln
auth_type = password
memcached_servers = localhost:11211
[oslo_messaging_notifications]
topics = notifications
topics = kiln
[upgrade]
suites = a, b
`)
	c, err := config.Load([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	if c.Keystone.Password != `a#b;c "quoted"` || !c.Default.Debug {
		t.Errorf("password %q, debug %v", c.Keystone.Password, c.Default.Debug)
	}
	if got := strings.Join(c.Notifications.Topics, "+"); got != "notifications+kiln" {
		t.Errorf("topics %s", got)
	}
	if got := strings.Join(c.Upgrade.Suites, "+"); got != "a+b" {
		t.Errorf("suites %s", got)
	}
	if c.Default.TransportURL != "rabbit://stackrabbit:s%23cret;x@127.0.0.1:5672/" {
		t.Errorf("transport_url %s", c.Default.TransportURL)
	}
	if len(c.Warnings) != 0 {
		t.Errorf("options of oslo's libraries are not ours to warn of: %v", c.Warnings)
	}
	if c.Keystone.Timeout != 30*time.Second || c.Worker.WorkDir != "/var/lib/kiln/work" {
		t.Errorf("defaults: %v, %s", c.Keystone.Timeout, c.Worker.WorkDir)
	}
}

// All faults come at once, each with its file, line and option, and no secret is repeated.
func TestLoadTellsAllFaults(t *testing.T) {
	file := write(t, `[DEFAULT]
transport_url = rabbit//user:hunter2@host
[api]
bind_port = 70000
bind_prot = 1
[worker]
parallel = many
lease = 0
[keystone_authtoken]
auth_url = http://keystone.test
interface = outer
`)
	c, err := config.Load([]string{file})
	if err == nil {
		t.Fatal("the file was accepted")
	}
	for _, want := range []string{
		":2: [DEFAULT] transport_url: not an address", ":4: [api] bind_port: 70000 is not between 1 and 65535",
		`:7: [worker] parallel: "many" is not a whole number`, `:8: [worker] lease: "0" is not a number of seconds above 0`,
		`:11: [keystone_authtoken] interface: "outer" is none of`, "[keystone_authtoken] password: the option is required",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%s", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret is in the error: %s", err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], ":5: option api.bind_prot") {
		t.Errorf("warnings: %v", c.Warnings)
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	_, err := config.Load([]string{"/nonexistent/kiln.conf"}, "keystone_authtoken.auth_url", "keystone_authtoken.password")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/kiln.conf") {
		t.Errorf("error %v", err)
	}
}

// The generated sample is itself a valid file, also with every option switched on.
func TestSampleIsValid(t *testing.T) {
	var b bytes.Buffer
	if err := config.Sample(&b); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(b.String(), "\n#", "\n")
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, " ") {
			lines = append(lines, line)
		}
	}
	text = strings.Join(lines, "\n")
	text = strings.Replace(text, "auth_url = ", "auth_url = http://keystone.test", 1)
	text = strings.Replace(text, "\npassword = ", "\npassword = x", 1)
	c, err := config.Load([]string{write(t, text)})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Error(c.Warnings)
	}
}

func TestShowMasksSecrets(t *testing.T) {
	c, err := config.Load([]string{write(t, "[keystone_authtoken]\nauth_url=http://keystone.test\npassword=hunter2\n[database]\nconnection=mysql://u:hunter2@h/k\n")})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := config.Show(&b, c.Config); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), "password = ***") {
		t.Error(b.String())
	}
}
