package functional

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

type doc = map[string]any

func queue(run string) string { return "kiln.functional." + run }

// find lists things of Keystone.
func (s *stand) find(ctx context.Context, plural string, query url.Values) ([]doc, error) {
	var answer map[string]any
	if err := s.identity.Get(ctx, "find", plural, query, &answer); err != nil {
		return nil, err
	}
	list, _ := answer[plural].([]any)
	var out []doc
	for _, item := range list {
		if d, ok := item.(doc); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

func (s *stand) create(ctx context.Context, singular string, body doc) (string, error) {
	var answer map[string]struct{ ID string }
	err := s.identity.Do(ctx, openstack.Call{Operation: "create", Method: http.MethodPost, Path: singular + "s", Body: doc{singular: body}, Out: &answer})
	return answer[singular].ID, err
}

// makeProjects makes the two projects with their users.
func (s *stand) makeProjects(ctx context.Context) (err error) {
	// The name is written down first: what a killed run made is then found again.
	if err := os.WriteFile(filepath.Join(s.keep, "id-"+s.id), nil, 0o600); err != nil {
		return err
	}
	if s.project, err = s.create(ctx, "project", doc{"name": name(s.id, "project"), "domain_id": "default"}); err != nil {
		return err
	}
	if s.other, err = s.create(ctx, "project", doc{"name": name(s.id, "foreign"), "domain_id": "default"}); err != nil {
		return err
	}
	for _, u := range []struct{ user, project, role string }{
		{"member", s.project, "member"}, {"manager", s.project, "manager"}, {"reader", s.project, "reader"}, {"other", s.other, "member"},
	} {
		id, err := s.create(ctx, "user", doc{"name": name(s.id, u.user), "domain_id": "default", "password": secret()})
		if err != nil {
			return err
		}
		roles, err := s.find(ctx, "roles", url.Values{"name": {u.role}})
		if err != nil || len(roles) != 1 {
			return errors.Join(err, errors.New("the cloud has no role "+u.role))
		}
		if err := s.identity.Do(ctx, openstack.Call{
			Operation: "grant", Method: http.MethodPut, Path: "projects/" + u.project + "/users/" + id + "/roles/" + roles[0]["id"].(string),
		}); err != nil {
			return err
		}
	}
	return nil
}

// removeEarlierRuns removes what runs left that were killed. The lock says that none of them goes on.
func (s *stand) removeEarlierRuns(ctx context.Context) error {
	ids, err := filepath.Glob(filepath.Join(s.keep, "id-*"))
	for _, path := range ids {
		err = errors.Join(err, s.remove(ctx, strings.TrimPrefix(filepath.Base(path), "id-")))
	}
	dirs, _ := filepath.Glob(filepath.Join(s.keep, "run-*")) // the pattern is well formed
	for _, d := range dirs {
		if d != s.dir {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}
	return err
}

// remove removes all that a run made, and forgets the run where nothing is left.
func (s *stand) remove(ctx context.Context, run string) error {
	var all error
	for _, thing := range []string{"project", "foreign"} {
		found, err := s.find(ctx, "projects", url.Values{"name": {name(run, thing)}})
		all = errors.Join(all, err)
		for _, p := range found {
			id := p["id"].(string)
			all = errors.Join(all, s.removeServers(ctx, id), s.removeImages(ctx, id), s.delete(ctx, "projects/"+id))
		}
	}
	for _, user := range []string{"member", "manager", "reader", "other", "service"} {
		found, err := s.find(ctx, "users", url.Values{"name": {name(run, user)}})
		all = errors.Join(all, err)
		for _, u := range found {
			all = errors.Join(all, s.delete(ctx, "users/"+u["id"].(string)))
		}
	}
	all = errors.Join(all, s.removeRegion(ctx, run), removeDatabase(ctx, run), removeQueues(run))
	if all != nil {
		return all
	}
	if err := os.Remove(filepath.Join(s.keep, "id-"+run)); !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (s *stand) delete(ctx context.Context, path string) error {
	err := s.identity.Do(ctx, openstack.Call{Operation: "delete", Method: http.MethodDelete, Path: path})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

func (s *stand) removeRegion(ctx context.Context, run string) error {
	region := name(run, "region")
	endpoints, err := s.find(ctx, "endpoints", url.Values{"region_id": {region}})
	for _, e := range endpoints {
		if e["region_id"] == region {
			err = errors.Join(err, s.delete(ctx, "endpoints/"+e["id"].(string)))
		}
	}
	if err != nil {
		return err
	}
	return s.delete(ctx, "regions/"+region)
}

// server is what the tests want to know of a server of Nova.
type server struct {
	ID       string            `json:"id"`
	Status   string            `json:"status"`
	Metadata map[string]string `json:"metadata"`
}

// servers are those of a project, as the administrator sees them.
func (s *stand) servers(ctx context.Context, project string) ([]server, error) {
	var answer struct{ Servers []server }
	err := s.compute.Get(ctx, "servers", "servers/detail", url.Values{"all_tenants": {"1"}, "project_id": {project}}, &answer)
	return answer.Servers, err
}

func (s *stand) removeServers(ctx context.Context, project string) error {
	asked := map[string]bool{}
	return until(ctx, 90*time.Second, "the servers of the run are deleted", func(ctx context.Context) (bool, error) {
		left, err := s.servers(ctx, project)
		for _, v := range left {
			if asked[v.ID] {
				continue
			}
			asked[v.ID] = true
			derr := s.compute.Do(ctx, openstack.Call{Operation: "delete", Method: http.MethodDelete, Path: "servers/" + v.ID})
			if derr != nil && !errs.Is(derr, errs.NotFound) {
				err = errors.Join(err, derr)
			}
		}
		return len(left) == 0, err
	})
}

// images are those of a project, hidden ones too.
func (s *stand) images(ctx context.Context, project string) ([]catalog.GlanceImage, error) {
	var out []catalog.GlanceImage
	for _, hidden := range []string{"false", "true"} {
		found, err := s.glance.Images(ctx, map[string]string{"owner": project, "os_hidden": hidden})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// removeImages removes the images of a project with their copies in pools and in the image cache of the libvirt node.
func (s *stand) removeImages(ctx context.Context, project string) error {
	images, err := s.images(ctx, project)
	if err != nil || len(images) == 0 {
		return err
	}
	for _, pool := range []string{"cluster-a", "cluster-b"} {
		err = errors.Join(err, removeCopies(ctx, pool, images))
	}
	for _, g := range images {
		planted := cache.NovaCachePath(os.Getenv("KILN_TEST_INSTANCES"), g.ID)
		for _, path := range []string{planted, filepath.Join(filepath.Dir(planted), ".kiln-planted-"+filepath.Base(planted))} {
			if rerr := os.Remove(path); rerr != nil && !os.IsNotExist(rerr) {
				err = errors.Join(err, rerr)
			}
		}
		err = errors.Join(err, s.glance.DeleteImage(ctx, g.ID))
	}
	return err
}

// rbd runs Ceph's own tool as the user of a pool.
func rbd(ctx context.Context, pool string, args ...string) (string, error) {
	return command(ctx, nil, "rbd", append([]string{"--conf", os.Getenv("KILN_TEST_CEPH_CONF"), "--id", pool, "--pool", pool}, args...)...)
}

func removeCopies(ctx context.Context, pool string, images []catalog.GlanceImage) error {
	list, err := rbd(ctx, pool, "ls")
	if err != nil {
		return err
	}
	for n := range strings.FieldsSeq(list) {
		for _, g := range images {
			if !strings.HasPrefix(n, g.ID) {
				continue
			}
			_, _ = rbd(ctx, pool, "snap", "unprotect", n+"@snap") // half copies have none
			_, perr := rbd(ctx, pool, "snap", "purge", "--no-progress", n)
			_, rerr := rbd(ctx, pool, "rm", "--no-progress", n)
			err = errors.Join(err, perr, rerr)
		}
	}
	return err
}

func removeDatabase(ctx context.Context, run string) error {
	db, err := openMariaDB()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+database(run))
	return err
}

func removeQueues(run string) error {
	conn, err := amqp.Dial(os.Getenv("KILN_TEST_RABBIT_URL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	for _, q := range []string{queue(run), queue(run) + ".dead"} {
		if _, derr := ch.QueueDelete(q, false, false, false); derr != nil {
			err = errors.Join(err, derr)
		}
	}
	return err
}
