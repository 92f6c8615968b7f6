package glance

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

var importMethods = []string{"glance-direct", "copy-image"}

// Properties that an import leaves on an image.
const (
	propTask      = "os_glance_import_task"
	propImporting = "os_glance_importing_to_stores"
	propFailed    = "os_glance_failed_import"
)

// task is one import.
type task struct {
	id, status, owner, user, image, request, message string
	input                                            any
	created, updated                                 time.Time
}

// MarshalJSON is the task as the API shows it.
func (t *task) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"id": t.id, "type": "api_image_import", "status": t.status, "owner": t.owner, "input": t.input, "result": nil,
		"message": t.message, "image_id": t.image, "request_id": t.request, "user_id": t.user,
		"created_at": wire.Stamp(t.created), "updated_at": wire.Stamp(t.updated), "expires_at": wire.Stamp(t.updated.Add(48 * time.Hour)),
		"self": "/v2/tasks/" + t.id, "schema": "/v2/schemas/task",
	})
}

// stage is PUT /v2/images/{id}/stage.
func (s *Service) stage(c call) (answer, error) {
	i, err := s.begin(c, "modify_image", uploading)
	if err != nil {
		return answer{}, err
	}
	got, err := s.receive(c.Body)
	if err == nil {
		err = os.Rename(got.path, s.path("staging", i.id))
	}
	if err != nil {
		s.restore(i)
		return answer{}, s.uploadFailed(i, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i.size = &got.size
	s.touch(i)
	s.notify("update", i, nil)
	return answer{status: http.StatusNoContent}, nil
}

// importRequest is the body of POST /v2/images/{id}/import.
type importRequest struct {
	Method *struct {
		Name *string `json:"name"`
	} `json:"method"`
	Stores         []string `json:"stores"`
	AllStores      bool     `json:"all_stores"`
	AllMustSucceed *bool    `json:"all_stores_must_succeed"`
}

func (s *Service) importImage(c call) (answer, error) {
	var body importRequest
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	switch {
	case body.Method == nil:
		return answer{}, fail(http.StatusBadRequest, "Import request requires a 'method' field.")
	case body.Method.Name == nil:
		return answer{}, fail(http.StatusBadRequest, "Import request requires a 'name' field.")
	case !slices.Contains(importMethods, *body.Method.Name):
		return answer{}, fail(http.StatusBadRequest, "Unknown import method name '%s'.", *body.Method.Name)
	}
	i, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	method := *body.Method.Name
	if err := checkImport(i, method, c.caller); err != nil {
		return answer{}, err
	}
	stores, err := s.importStores(i, method, body, c.Header.Get("X-Image-Meta-Store"))
	if err != nil {
		return answer{}, err
	}
	if len(stores) == 0 {
		return answer{status: http.StatusAccepted}, nil // all_stores, and all have it
	}
	now := s.kit.Clock()
	t := &task{id: s.kit.NewID(), status: "pending", owner: c.caller.ProjectID, user: c.caller.UserID, image: i.id,
		request: wire.RequestID(c.Context()), created: now, updated: now,
		input: map[string]any{"image_id": i.id, "backend": stores, "import_req": map[string]any{
			"method": map[string]string{"name": method}, "stores": stores}}}
	s.tasks[t.id] = t
	i.properties[propTask] = t.id
	s.notifyTask("create", t)
	s.work.Go(func() { s.run(t, i, method, stores) })
	return answer{status: http.StatusAccepted}, nil
}

func checkImport(i *image, method string, caller wire.Caller) error {
	switch {
	case i.status == active && method != "copy-image":
		return fail(http.StatusConflict, "Image with status active cannot be target for import")
	case i.status != active && method == "copy-image":
		return fail(http.StatusConflict, "Only images with status active can be targeted for copying")
	case i.status != uploading && method == "glance-direct":
		return fail(http.StatusConflict, "Image needs to be staged before 'glance-direct' method can be used")
	case i.containerFormat == nil:
		return fail(http.StatusConflict, "'container_format' needs to be set before import")
	case i.diskFormat == nil:
		return fail(http.StatusConflict, "'disk_format' needs to be set before import")
	case method == "copy-image" && !caller.Admin():
		return forbidden("copy_image")
	case !i.mine(caller):
		return forbidden("modify_image")
	case i.properties[propTask] != "":
		return fail(http.StatusConflict, "Image has active task")
	}
	return nil
}

func (s *Service) importStores(i *image, method string, body importRequest, header string) ([]string, error) {
	stores := slices.Clone(body.Stores)
	switch {
	case body.AllStores && len(stores) > 0:
		return nil, fail(http.StatusBadRequest, "All_stores parameter can't be used with x-image-meta-store header or stores parameter")
	case body.AllStores:
		stores = slices.Clone(s.opts.Stores)
	case len(stores) == 0 && header != "":
		stores = []string{header}
	case len(stores) == 0:
		stores = []string{s.opts.Stores[0]}
	}
	for _, store := range stores {
		if !slices.Contains(s.opts.Stores, store) {
			return nil, fail(http.StatusConflict, "Unknown scheme '%s' found in URI", store)
		}
		if method == "copy-image" && !body.AllStores && slices.Contains(i.stores, store) {
			return nil, fail(http.StatusBadRequest, "Image is already present at store '%s'", store)
		}
	}
	if method == "copy-image" && body.AllStores {
		stores = slices.DeleteFunc(stores, func(store string) bool { return slices.Contains(i.stores, store) })
	}
	return stores, nil
}

// run is the import itself, in the background.
func (s *Service) run(t *task, i *image, method string, stores []string) {
	s.mu.Lock()
	s.advance(t, "processing", "")
	i.properties[propImporting], i.properties[propFailed] = strings.Join(stores, ","), ""
	if method == "glance-direct" {
		i.status = importing
	}
	s.touch(i)
	s.notify("update", i, nil) // the lock is taken
	s.notify("update", i, nil) // and the stores are noted
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var err error
	if method == "glance-direct" {
		err = s.importStaged(i, stores)
	} else {
		err = s.copyTo(ctx, i, stores)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(i.properties, propTask)
	if err != nil {
		i.properties[propFailed], i.properties[propImporting] = strings.Join(stores, ","), ""
		if i.status == importing {
			i.status = queued
		}
		s.advance(t, "failure", err.Error())
		return
	}
	s.advance(t, "success", "")
}

func (s *Service) advance(t *task, status, message string) {
	t.status, t.message, t.updated = status, message, s.kit.Clock()
	s.notifyTask(status, t)
}

// landed notes that one more store has the bytes. The lock is held.
func (s *Service) landed(i *image, store string) {
	s.notify("upload", i, importState(i))
	i.arrived(store)
	s.touch(i)
	s.notify("update", i, nil) // the store is done
	s.notify("update", i, nil) // and the task looks once more: Glance saves the image at both
}

// arrived takes a store off the list of those that wait for the bytes.
func (i *image) arrived(store string) {
	left := slices.DeleteFunc(strings.Split(i.properties[propImporting], ","), func(have string) bool { return have == store })
	i.properties[propImporting] = strings.Join(left, ",")
}

func (s *Service) copyTo(ctx context.Context, i *image, stores []string) error {
	s.mu.Lock()
	from := i.stores[0]
	s.mu.Unlock()
	for _, store := range stores {
		s.mu.Lock()
		s.prepare(i, store)
		s.mu.Unlock()
		if err := s.copyFile(ctx, i.id, from, store); err != nil {
			return err
		}
		s.mu.Lock()
		if i.status == deleted {
			s.mu.Unlock()
			return errors.Join(errors.New("the image was deleted"), os.Remove(s.path("stores", store, i.id)))
		}
		i.stores = append(i.stores, store)
		s.landed(i, store)
		s.mu.Unlock()
	}
	return nil
}

func (s *Service) importStaged(i *image, stores []string) error {
	for n, store := range stores {
		s.mu.Lock()
		s.prepare(i, store)
		s.mu.Unlock()
		staged, err := os.Open(s.path("staging", i.id))
		if err != nil {
			return err
		}
		got, err := s.receive(staged)
		if err = errors.Join(err, staged.Close()); err != nil {
			return err
		}
		if err := os.Rename(got.path, s.path("stores", store, i.id)); err != nil {
			return err
		}
		s.mu.Lock()
		if i.status == deleted {
			s.mu.Unlock()
			return errors.Join(errors.New("the image was deleted"), os.Remove(s.path("stores", store, i.id)))
		}
		if n == 0 {
			s.activate(i, store, got)
			i.arrived(store)
		} else {
			i.stores = append(i.stores, store)
			s.landed(i, store)
		}
		s.mu.Unlock()
	}
	return os.Remove(s.path("staging", i.id))
}

func (s *Service) listImageTasks(c call) (answer, error) {
	i, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	found := []*task{}
	for _, t := range s.tasks {
		if t.image == i.id {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, func(a, b *task) int { return a.created.Compare(b.created) })
	return answer{status: http.StatusOK, body: map[string]any{"tasks": found}}, nil
}

func (s *Service) listTasks(c call) (answer, error) {
	if !c.caller.Admin() {
		return answer{}, forbidden("tasks_api_access")
	}
	found := []*task{}
	for _, t := range s.tasks {
		found = append(found, t)
	}
	slices.SortFunc(found, func(a, b *task) int { return b.created.Compare(a.created) })
	return answer{status: http.StatusOK, body: map[string]any{"tasks": found, "first": "/v2/tasks", "schema": "/v2/schemas/tasks"}}, nil
}

func (s *Service) showTask(c call) (answer, error) {
	t := s.tasks[c.PathValue("task")]
	if !c.caller.Admin() {
		return answer{}, forbidden("tasks_api_access")
	}
	if t == nil {
		return answer{}, fail(http.StatusNotFound, "No task found with ID %s", c.PathValue("task"))
	}
	return answer{status: http.StatusOK, body: t}, nil
}
