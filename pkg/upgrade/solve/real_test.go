package solve_test

import (
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

// release is Debian 12 by the machine's own mirrors.
func release(t *testing.T) []upgrade.Suite {
	t.Helper()
	m, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	return []upgrade.Suite{
		{Mirror: m.Main, Suite: "bookworm", Components: []string{"main"}}, {Mirror: m.Main, Suite: "bookworm-updates", Components: []string{"main"}},
		{Mirror: m.Security, Suite: "bookworm-security", Components: []string{"main"}},
	}
}

// TestRealRelease plans for a system with 60 packages that are all behind, over all of Debian 12, and says how long a
// plan takes when the lists are there, and what fraction of packages needs a running system.
func TestRealRelease(t *testing.T) {
	w := newWorld(t)
	suites := release(t)
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{suites[0].Mirror, suites[2].Mirror}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	w.cfg.Proxy, w.cfg.Keyring, w.cfg.Output = proxy, deb.DefaultKeyring, nil
	if w.plans, err = solve.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	defer w.plans.Close()
	status := behind(t)
	q := w.question(status)
	q.Suites, q.Log = suites, nil
	first := time.Now()
	p := w.plan(q)
	cold := time.Since(first)
	if len(p.Changes) < 40 || p.Download == 0 || p.Group == "" {
		t.Fatalf("%d changes, %v", len(p.Changes), held(p))
	}
	var warm []time.Duration
	for range 3 {
		q.WorkDir = t.TempDir()
		begin := time.Now()
		again := w.plan(q)
		warm = append(warm, time.Since(begin))
		if again.Group != p.Group {
			t.Error("the same image, another plan")
		}
	}
	slices.Sort(warm)
	t.Logf("%d changes; with the lists to fetch %s, with them there %s (median of %d)", len(p.Changes), cold.Round(time.Millisecond), warm[len(warm)/2].Round(time.Millisecond), len(warm))
	for _, c := range p.Changes {
		if !strings.HasPrefix(c.URI, suites[0].Mirror) && !strings.HasPrefix(c.URI, suites[2].Mirror) || c.Source == "" || c.Suite == "" || len(c.SHA256) != 64 {
			t.Errorf("%+v", c)
		}
	}
}

// behind is the status of the packages that this machine has of its own release, each at version 0: nothing of
// the machine is read but names and sizes.
func behind(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := deb.ParseStatus(f)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	n := 0
	for _, p := range all {
		if p.Installed() && n < 60 && (p.Essential || strings.HasPrefix(p.Name, "libc")) {
			fmt.Fprintf(&b, "Package: %s\nStatus: install ok installed\nArchitecture: %s\nVersion: 0\n\n", p.Name, cmp.Or(p.Architecture, "amd64"))
			n++
		}
	}
	return []byte(b.String())
}

// servers are packages whose scripts do much: what a plan of real servers meets.
const servers = `postgresql-15 postgresql-common mariadb-server redis-server nginx-common apache2 openssh-server dbus udev systemd systemd-resolved systemd-timesyncd
	postfix exim4-base bind9 slapd rabbitmq-server samba samba-common-bin nfs-kernel-server nfs-common openvswitch-switch docker.io containerd podman libvirt-daemon-system
	qemu-guest-agent cloud-init unattended-upgrades apparmor cryptsetup lvm2 mdadm grub-pc grub-efi-amd64 initramfs-tools linux-image-amd64 linux-image-cloud-amd64 chrony ntpsec
	rsyslog cron logrotate sudo ca-certificates tzdata libc6 libpam-runtime openssl haproxy keepalived squid dovecot-core memcached php8.2-fpm python3-minimal default-jre-headless
	tomcat10 mysql-common isc-dhcp-client isc-dhcp-server dnsmasq firewalld nftables iptables-persistent fail2ban zabbix-agent prometheus-node-exporter snmpd smartmontools
	cups network-manager ifupdown netbase procps kmod console-setup keyboard-configuration polkitd ceph-common ceph-osd corosync pacemaker drbd-utils open-iscsi multipath-tools etcd-server
	zabbix-server-mysql roundcube-core cacti icinga2-ido-mysql phpmyadmin`

// TestRealFraction classifies the packages that a server has and 300 others of Debian 12 that chance names, and prints
// how many need a running system. Only the beginning of each package is fetched.
func TestRealFraction(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the machine's Debian mirror")
	}
	suites := release(t)
	dir := t.TempDir()
	client, err := deb.NewClient(deb.ClientConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	index, err := client.Fetch(t.Context(), deb.Suite{Mirror: suites[0].Mirror, Suite: "bookworm", Components: []string{"main"}, Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	chosen := strings.Fields(servers)
	server := len(chosen)
	names := namesOf(t, dir)
	random := rand.New(rand.NewPCG(12, 2026))
	for range 300 {
		chosen = append(chosen, names[random.IntN(len(names))])
	}
	counts := [2]map[upgrade.Script]int{{}, {}}
	verdicts := make([]scripts.Verdict, len(chosen))
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(8)
	for i, name := range chosen {
		if found := index.Find(name); len(found) > 0 {
			g.Go(func() error {
				files, err := head(ctx, suites[0].Mirror+"/"+found[0].Filename, found[0].Size)
				verdicts[i] = scripts.Classify(files)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, name := range chosen {
		found := index.Find(name)
		if len(found) == 0 {
			continue // not in this release
		}
		v, group := verdicts[i], 0
		if i >= server {
			group = 1
		}
		counts[group][v.Script]++
		if v.Script == upgrade.ScriptRunning {
			t.Logf("%s %s: %s", name, found[0].Version, v.Why)
		}
	}
	for i, what := range []string{"packages of servers", "packages by chance"} {
		c, n := counts[i], 0
		for _, k := range c {
			n += k
		}
		t.Logf("%s: %d; none %d, safe %d, diverted %d, need a running system %d (%.1f %%)", what, n, c[upgrade.ScriptNone], c[upgrade.ScriptSafe], c[upgrade.ScriptDivert], c[upgrade.ScriptRunning],
			100*float64(c[upgrade.ScriptRunning])/float64(max(n, 1)))
		if n < 60 || c[upgrade.ScriptRunning]*4 > n {
			t.Errorf("%s: %v", what, c)
		}
	}
}

// namesOf are the packages of the largest list that a client has kept, in the list's order.
func namesOf(t *testing.T, dir string) []string {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(lists, func(a, b string) int {
		sa, _ := os.Stat(a)
		sb, _ := os.Stat(b)
		return cmp.Compare(sb.Size(), sa.Size())
	})
	f, err := os.Open(lists[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := deb.Paragraphs(z, map[string]bool{"package": true}, func(_ int, get func(string) string) error {
		names = append(names, get("package"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

// head reads the scripts of a package out of its first bytes, and of twice as many until they are enough.
func head(ctx context.Context, address string, size int64) (map[string][]byte, error) {
	for n := int64(64 << 10); ; n *= 8 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", n-1))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		files, err := scripts.Read(res.Body)
		res.Body.Close()
		if err == nil {
			return files, nil
		}
		if n > size {
			return nil, fmt.Errorf("%s: %w", filepath.Base(address), err)
		}
	}
}
