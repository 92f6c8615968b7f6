package functional

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/go-sql-driver/mysql" // the cloud's MariaDB
)

const root = "../.."

// build makes the programs as `make build` does, once a run.
func (s *stand) build(ctx context.Context) error {
	if _, err := os.Stat("/usr/include/rbd/librbd.h"); err != nil {
		return errors.New("the agents need librbd: run tools/deps test")
	}
	args := []string{"-C", root, "build", "-tags", "ceph,pacific", "-o", s.bin + "/"}
	for _, p := range []string{"kiln", "kiln-api", "kiln-engine", "kiln-worker", "kiln-agent", "kiln-manage"} {
		args = append(args, "./cmd/"+p)
	}
	_, err := command(ctx, nil, "go", args...)
	return err
}

func database(run string) string { return "kiln_functional_" + run }

func openMariaDB() (*sql.DB, error) { return sql.Open("mysql", os.Getenv("KILN_TEST_MYSQL_DSN")) }

func (s *stand) makeDatabase(ctx context.Context) error {
	db, err := openMariaDB()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "CREATE DATABASE "+database(s.id)+" CHARACTER SET utf8mb4")
	return err
}

// conf is the path of a configuration file of the run.
func (s *stand) conf(name string) string { return filepath.Join(s.dir, name+".conf") }

func (s *stand) configure(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return err
	}
	s.api = fmt.Sprintf("http://127.0.0.1:%d", port)
	dsn := os.Getenv("KILN_TEST_MYSQL_DSN") // root:password@tcp(host:port)/
	login, rest, _ := strings.Cut(dsn, "@tcp(")
	address, _, _ := strings.Cut(rest, ")")
	text := fmt.Sprintf(`[DEFAULT]
host = functional.kiln.test
state_path = %[1]s
transport_url = rabbit://%[2]s
[database]
connection = mysql+pymysql://%[3]s@%[4]s/%[5]s?charset=utf8
[keystone_authtoken]
auth_url = %[6]s
username = %[7]s
password = %[8]s
region_name = %[9]s
token_cache_time = 3
[oslo_messaging_notifications]
queue = %[10]s
[oslo_policy]
policy_file = %[1]s/policy.yaml
[api]
bind_port = %[11]d
[engine]
sync_interval = 5
[build]
test_boot = off
trusted_keys = %[1]s/proof.pub
[worker]
lease = 5
cache_dir = %[12]s
allow_local_sources = true
`, s.dir, strings.TrimPrefix(os.Getenv("KILN_TEST_RABBIT_URL"), "amqp://"), login, address, database(s.id), os.Getenv("KILN_TEST_AUTH_URL"),
		name(s.id, "service"), secret(), os.Getenv("KILN_TEST_REGION"), queue(s.id), port, filepath.Join(s.keep, "cache"))
	err = os.WriteFile(s.conf("kiln"), []byte(text), 0o600)
	for _, w := range workers {
		err = errors.Join(err, os.WriteFile(s.conf(w), fmt.Appendf(nil, "[worker]\nwork_dir = %s\n", s.workDir(w)), 0o600))
	}
	err = errors.Join(err, s.agentConf(os.Getenv("KILN_TEST_LIBVIRT_HOST"), "cluster-a", os.Getenv("KILN_TEST_INSTANCES")))
	return errors.Join(err, s.agentConf(fakes()[0], "cluster-b", filepath.Join(s.dir, "instances")))
}

// workers are the names of the two workers; each has a work folder of its own, as on two hosts.
var workers = []string{"worker-1", "worker-2"}

func (s *stand) workDir(worker string) string { return filepath.Join(s.dir, worker+"-work") }

func (s *stand) agentConf(node, user, instances string) error {
	return os.WriteFile(s.conf(node), fmt.Appendf(nil, "[DEFAULT]\nhost = %[1]s\n[agent]\nnode = %[1]s\ninstances_path = %[2]s\n[ceph]\nconf = %[3]s\nuser = %[4]s\n",
		node, instances, os.Getenv("KILN_TEST_CEPH_CONF"), user), 0o600)
}

// smallRecipe is the least that boots.
const smallRecipe = `name: small
description: The base system and a kernel
from: {release: bookworm}
disk: {size: 1GiB}
`

// makeRepository is a git repository of the recipes that ship with Kiln, and the small one.
func (s *stand) makeRepository(ctx context.Context) error {
	dir := filepath.Join(s.dir, "recipes")
	err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "etc/kiln/recipes")))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "recipes", "small.yaml"), []byte(smallRecipe), 0o644)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-q", "-m", "Recipes"}} {
		if err == nil {
			_, err = command(ctx, nil, "git", append([]string{"-C", dir, "-c", "init.defaultBranch=main", "-c", "user.name=kiln", "-c", "user.email=kiln@example.test"}, args...)...)
		}
	}
	return err
}

// adminEnv is the login that kiln-manage bootstrap uses.
func adminEnv() []string {
	return []string{
		"OS_AUTH_URL=" + os.Getenv("KILN_TEST_AUTH_URL"), "OS_USERNAME=admin", "OS_PASSWORD=" + secret(), "OS_PROJECT_NAME=admin",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
	}
}

func (s *stand) bootstrap(ctx context.Context) (string, error) {
	return command(ctx, adminEnv(), filepath.Join(s.bin, "kiln-manage"), "--config-file", s.conf("kiln"),
		"bootstrap", "--region", name(s.id, "region"), "--public-url", s.api+"/")
}

func (s *stand) manage(ctx context.Context) (err error) {
	if _, err = command(ctx, nil, filepath.Join(s.bin, "kiln-manage"), "--config-file", s.conf("kiln"), "db", "sync"); err == nil {
		s.bootstrapped, err = s.bootstrap(ctx)
	}
	return err
}

func (s *stand) startPrograms(context.Context) error {
	all := "--config-file=" + s.conf("kiln")
	err := errors.Join(s.start("api", "kiln-api", all), s.start("engine", "kiln-engine", all))
	for _, w := range workers {
		err = errors.Join(err, s.start(w, "kiln-worker", all, "--config-file="+s.conf(w)))
	}
	for _, node := range []string{os.Getenv("KILN_TEST_LIBVIRT_HOST"), fakes()[0]} {
		err = errors.Join(err, s.start("agent-"+node, "kiln-agent", all, "--config-file="+s.conf(node)))
	}
	return err
}
