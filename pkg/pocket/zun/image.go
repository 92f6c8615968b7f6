package zun

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// image is one row of /v1/images: an image that was asked onto one host.
type image struct {
	ID, ProjectID, Repo, Tag, Host string
	ImageID, Size                  *string // set when the pull succeeded
}

var uuidLike = regexp.MustCompile(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$`)

func (s *Server) imageView(i *image) map[string]any {
	return map[string]any{
		"uuid": i.ID, "links": s.links("images", i.ID), "image_id": i.ImageID, "project_id": i.ProjectID, "repo": i.Repo, "tag": i.Tag,
		"size": i.Size, "host": i.Host,
	}
}

// pullImage is POST /v1/images {repo, host}: a pull onto one host. Whether it worked can be told only by image_id and
// size; a failure leaves the row as it was.
func (s *Server) pullImage(c *call) (answer, error) {
	body, err := readBody(c, imageSchema, "repo", "host")
	if err != nil {
		return answer{}, err
	}
	if err := c.adminOnly("image:pull"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hostNamed(str(body, "host"))
	if h == nil {
		return answer{}, invalidValue("The host %s does not exist.", str(body, "host"))
	}
	row := &image{ID: s.deps.NewID(), ProjectID: c.caller.ProjectID, Host: h.Name}
	row.Repo, row.Tag = splitImage(str(body, "repo"))
	for _, other := range s.images {
		if other.Repo == row.Repo && other.Tag == row.Tag && other.Host == row.Host {
			return answer{}, fail(http.StatusConflict, "image-already-exists", "An image with tag %s and repo %s already exists.", row.Tag, row.Repo)
		}
	}
	s.images = append(s.images, row)
	caller, ref := c.caller, str(body, "repo")
	s.background(func() { s.finishPull(caller, row, ref) })
	return answer{
		status: http.StatusAccepted, body: s.imageView(row), header: http.Header{"Location": {s.deps.URL + "/v1/images/" + row.ID}},
	}, nil
}

// finishPull is the node's half. An id of Glance as repo means the driver glance, whose bytes are really read.
func (s *Server) finishPull(caller wire.Caller, row *image, ref string) {
	id, size, err := s.fetch(caller, row.Host, ref)
	if err != nil {
		s.deps.Log.WithError(err).WithField("image", ref).WithField("node", row.Host).Warning("pull failed")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.images {
		if other != row && other.Host == row.Host && other.ImageID != nil && *other.ImageID == id {
			return // the unique key that Zun breaks here: the row stays without image_id
		}
	}
	text := strconv.FormatInt(size, 10)
	row.ImageID, row.Size = &id, &text
	if uuidLike.MatchString(ref) { // repo and tag become those inside the archive; the record has only Glance's name
		if found, err := s.glanceImage(caller, ref); err == nil && found.Name != "" {
			row.Repo, row.Tag = splitImage(found.Name)
		}
	}
}

func (s *Server) fetch(caller wire.Caller, node, ref string) (id string, size int64, err error) {
	if !uuidLike.MatchString(ref) {
		repo, tag := splitImage(ref)
		if err := s.deps.Docker.Pull(node, repo+":"+tag, "always"); err != nil {
			return "", 0, err
		}
		return "sha256:" + wire.Hex(s.deps.NewID()) + wire.Hex(s.deps.NewID()), 0, nil
	}
	found, err := s.glanceImage(caller, ref)
	if err != nil {
		return "", 0, err
	}
	_, body, err := s.deps.Images.Open(caller, ref)
	if err != nil {
		return "", 0, err
	}
	size, err = io.Copy(io.Discard, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return "", 0, err
	}
	sum := (found.Checksum + found.Checksum + wire.Hex(s.deps.NewID()))[:64]
	return "sha256:" + sum, size, nil
}

func (s *Server) listImages(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for _, i := range s.images {
		if i.ProjectID == c.caller.ProjectID {
			list = append(list, s.imageView(i))
		}
	}
	return ok(map[string]any{"images": list, "next": nil})
}

// imageFor finds a row; an unknown one is a 400, not a 404.
func (s *Server) imageFor(c *call) (*image, error) {
	for _, i := range s.images {
		if i.ID == c.PathValue("id") && (c.caller.Admin() || i.ProjectID == c.caller.ProjectID) {
			return i, nil
		}
	}
	return nil, fail(http.StatusBadRequest, "image-not-found", "Image %s could not be found.", c.PathValue("id"))
}

func (s *Server) showImage(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.imageFor(c)
	if err != nil {
		return answer{}, err
	}
	return ok(s.imageView(i))
}

func (s *Server) deleteImage(c *call) (answer, error) {
	if err := c.adminOnly("image:delete"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.imageFor(c)
	if err != nil {
		return answer{}, err
	}
	s.images = slices.DeleteFunc(s.images, func(other *image) bool { return other == i })
	return ok(null{})
}

// searchImages finds images of Glance by id with ?image_driver=glance; Docker's registry is not there to be searched.
func (s *Server) searchImages(c *call) (answer, error) {
	list := []any{}
	if c.URL.Query().Get("image_driver") != "glance" {
		return ok(list)
	}
	found, err := s.glanceImage(c.caller, c.PathValue("id"))
	if err == nil {
		list = append(list, map[string]any{
			"id": found.ID, "name": found.Name, "disk_format": found.DiskFormat, "container_format": found.ContainerFormat,
			"visibility": found.Visibility, "size": found.Size, "status": found.Status, "checksum": found.Checksum, "owner": found.Owner,
			"min_ram": found.MinRAM, "min_disk": found.MinDisk, "created_at": wire.Stamp(found.CreatedAt),
			"updated_at": wire.Stamp(found.UpdatedAt), "tags": append([]string{}, found.Tags...),
		})
	}
	return ok(list)
}
