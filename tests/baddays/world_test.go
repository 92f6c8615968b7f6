package baddays

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // a look past Kiln into its tables
	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
	"github.com/kiln-cloud/kiln/pkg/testkit/rabbitmq"
)

const password = "kiln"

// lease is how long a killed program keeps its jobs here: short, so that a test need not wait half a minute.
const lease = 5 * time.Second

// world is a cloud and a Kiln of separate programs.
type world struct {
	t       *testing.T
	dir     string
	config  string // the programs' file
	cloud   *pocket.Cloud
	valve   *valve // stands before Glance
	mysql   *mariadb.Server
	bus     *rabbitmq.Server
	dsn     string
	api     string // address
	member  *client.Client
	admin   *client.Client
	manager *client.Client
	conn    *openstack.Cloud // of the user demo
	glance  *glance.Client   // of Kiln's own user
	project string           // demo's id
}

// newWorld brings the cloud up and the schema into a fresh database. Programs are started by start.
func newWorld(t *testing.T) *world {
	t.Helper()
	needAll(t)
	w := &world{t: t, dir: t.TempDir()}
	w.mysql, w.bus = servers(t)
	w.dsn = w.mysql.NewDatabase(t)
	w.openCloud()
	w.api = "http://127.0.0.1:" + strconv.Itoa(freePort(t))
	w.writeConfig()
	w.manage("db", "sync")
	w.conn, w.member = w.login("demo", "demo")
	_, w.admin = w.login("admin", "admin")
	_, w.manager = w.login("demo-manager", "demo")
	service, _ := w.login("kiln", "service")
	w.glance = glance.New(service)
	var err error
	if w.project, err = w.conn.ForProject("").ID(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) openCloud() {
	w.t.Helper()
	var nodes []wire.Node
	for _, name := range []string{"node1", "node2", "node3"} {
		nodes = append(nodes, wire.Node{Name: name, VCPUs: 16, MemoryMB: 8192, DiskGB: 100, InstancesPath: filepath.Join(w.dir, "nova", name)})
	}
	cloud, err := pocket.Start(context.WithoutCancel(w.t.Context()), pocket.Config{Dir: filepath.Join(w.dir, "cloud"), Password: password, Nodes: nodes, Zun: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.cloud = cloud
	w.valve = newValve(w.t, cloud.URL())
	cloud.SetEndpoint("image", "glance", w.valve.url+"/"+pocket.Image)
}

func (w *world) writeConfig() {
	w.t.Helper()
	w.config = w.file("kiln.conf", fmt.Sprintf(`[DEFAULT]
state_path = %[1]s/state
transport_url = %[2]s
host = testhost
[database]
connection = %[3]s
[keystone_authtoken]
auth_url = %[4]s
password = %[5]s
token_cache_time = 1
http_connect_timeout = 10
[oslo_policy]
policy_file = %[1]s/policy.yaml
[api]
bind_port = %[6]s
[engine]
sync_interval = 2
place_timeout = 60
[worker]
allow_local_sources = true
lease = %[7]v
[upgrade]
suites = {codename}-security
[agent]
min_free_gib = 0
`, w.dir, w.bus.Transport(), w.mysql.Connection(w.t, w.dsn), w.cloud.AuthURL(), password, w.api[len("http://127.0.0.1:"):], lease.Seconds()))
}

// file writes a file into the world's folder.
func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// start starts a program on the world's configuration; more is laid over it.
func (w *world) start(name string, more ...string) *program {
	w.t.Helper()
	config := []string{w.config}
	for _, text := range more {
		config = append(config, w.file(uuid.NewString()+".conf", text))
	}
	return spawn(w.t, w.dir, name, config...)
}

// startAPI starts kiln-api and waits until it answers anything at all.
func (w *world) startAPI(more ...string) *program {
	w.t.Helper()
	p := w.start("kiln-api", more...)
	eventually(w.t, 30*time.Second, func() error {
		conn, err := net.DialTimeout("tcp", w.api[len("http://"):], time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return p
}

func (w *world) startAgent(node string) *program {
	w.t.Helper()
	return w.start("kiln-agent", fmt.Sprintf("[agent]\nnode = %s\ninstances_path = %s/nova/%s\nstore_dir = %s/stores\n", node, w.dir, node, w.dir))
}

// manage runs kiln-manage.
func (w *world) manage(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(shared.bin, "kiln-manage"), append([]string{"--config-file", w.config}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("kiln-manage %v: %v\n%s", args, err, out)
	}
}

func (w *world) login(user, project string) (*openstack.Cloud, *client.Client) {
	w.t.Helper()
	conn, err := openstack.Connect(w.t.Context(), openstack.Config{
		AuthURL: w.cloud.AuthURL(), Username: user, Password: password, ProjectName: project, Interface: "public",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, &client.Client{Endpoint: w.api, Token: conn.ForProject("").Token, Timeout: 20 * time.Second}
}

// store opens Kiln's database beside the programs, for what no API tells and for rows that a test begins with.
func (w *world) store() *store.DB {
	w.t.Helper()
	db, err := store.Open(w.t.Context(), store.Config{Driver: store.MySQL, DSN: w.dsn})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	return db
}

// count asks the database for one number.
func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	db, err := sql.Open("mysql", w.dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRowContext(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// upload makes an image of demo with these bytes.
func (w *world) upload(name, format string, data io.Reader, size int64) string {
	w.t.Helper()
	g, err := w.glance.CreateImage(w.t.Context(), catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: name, DiskFormat: format, ContainerFormat: "bare", Owner: w.project, Visibility: "private",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.glance.Upload(w.t.Context(), g.ID, data, size); err != nil {
		w.t.Fatal(err)
	}
	return g.ID
}

// uploadFile is upload of a file.
func (w *world) uploadFile(name, format, path string) string {
	w.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.upload(name, format, f, info.Size())
}

// images are all of Glance's, hidden ones too, in any state.
func (w *world) images() []catalog.GlanceImage {
	w.t.Helper()
	var all []catalog.GlanceImage
	for _, hidden := range []string{"false", "true"} {
		found, err := w.glance.Images(w.t.Context(), map[string]string{"os_hidden": hidden})
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// version makes an image the first version of a family, as a build would.
func (w *world) version(family catalog.FamilyName, image string) {
	w.t.Helper()
	db := w.store()
	f, err := db.EnsureFamily(w.t.Context(), w.project, family)
	if err != nil {
		w.t.Fatal(err)
	}
	v := catalog.Version{ID: uuid.NewString(), ProjectID: w.project, FamilyID: f.ID, Family: family, Name: "20260101.1", ImageID: image,
		Origin: "build", OriginID: uuid.NewString(), State: catalog.Published, CreatedAt: time.Now().UTC()}
	g, err := w.glance.Image(w.t.Context(), image)
	if err == nil {
		err = db.PutImage(w.t.Context(), catalog.Image{ID: image, ProjectID: w.project, Name: g.Name, State: catalog.Waiting, CreatedAt: g.CreatedAt, UpdatedAt: g.CreatedAt})
	}
	if err = errors.Join(err, db.AddVersion(w.t.Context(), v), db.SetChannel(w.t.Context(), f.ID, catalog.Candidate, v.Name)); err != nil {
		w.t.Fatal(err)
	}
}

// ended waits until a job is final, over all faults of the API, and gives it with its log.
func (w *world) ended(id string, within time.Duration) (job.Job, []job.LogLine) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	var lines []job.LogLine
	j, err := w.admin.WaitJob(ctx, id, 100*time.Millisecond, func(u client.JobUpdate) { lines = append(lines, u.Lines...) })
	if !j.State.Final() {
		w.t.Fatalf("job %s is not over: %v", id, err)
	}
	return j, lines
}

// failedAttempt tells whether an attempt of the job has failed and the next waits.
func (w *world) failedAttempt(id string, attempt int) error {
	var j job.Job
	if err := w.admin.Get(w.t.Context(), "/v1/jobs/"+id, &j); err != nil {
		return err
	}
	if j.Attempt < attempt || j.Attempt == attempt && (j.State != job.Pending || j.Error == nil) {
		return fmt.Errorf("attempt %d is %s: %+v", j.Attempt, j.State, j.Progress)
	}
	return nil
}

// inspect asks for an image's facts and gives the job's id.
func (w *world) inspect(image string) string {
	w.t.Helper()
	var out catalog.Inspecting
	if err := w.member.Post(w.t.Context(), "/v1/images/"+image+"/inspect", nil, &out); err != nil {
		w.t.Fatal(err)
	}
	return out.JobID
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%v is not a TCP address", l.Addr())
	}
	return addr.Port
}
