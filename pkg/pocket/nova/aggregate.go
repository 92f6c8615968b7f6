package nova

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

type aggregate struct {
	ID               int
	UUID, Name       string
	Hosts            []string
	Metadata         map[string]string // availability_zone among them
	Created, Updated time.Time
}

func copyAggregate(a *aggregate) aggregate {
	out := *a
	out.Hosts, out.Metadata = slices.Clone(a.Hosts), maps.Clone(a.Metadata)
	return out
}

func aggregateView(c *call, a aggregate, created bool) map[string]any {
	view := map[string]any{
		"id": a.ID, "name": a.Name, "availability_zone": orNull(a.Metadata["availability_zone"]), "deleted": false,
		"created_at": wire.MicroStamp(a.Created), "updated_at": stampOrNull(a.Updated, wire.MicroStamp), "deleted_at": nil,
	}
	if !created { // the answer to the creation has neither
		view["hosts"], view["metadata"] = append([]string{}, a.Hosts...), a.Metadata
	}
	if c.at(41) {
		view["uuid"] = a.UUID
	}
	return view
}

// withAggregate runs work on an aggregate under the lock and answers a copy.
func (s *Server) withAggregate(c *call, rule string, work func(a *aggregate) error) (aggregate, error) {
	if !strings.HasPrefix(rule, "compute:") {
		rule = "os-aggregates:" + rule
	}
	if err := c.may("admin", rule); err != nil {
		return aggregate{}, err
	}
	id, err := strconv.Atoi(c.PathValue("id"))
	if err != nil {
		return aggregate{}, badRequest("Invalid input received: id must be an integer")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.aggregates {
		if a.ID == id {
			if err := work(a); err != nil {
				return aggregate{}, err
			}
			return copyAggregate(a), nil
		}
	}
	return aggregate{}, notFound("Aggregate %s could not be found.", c.PathValue("id"))
}

func (s *Server) listAggregates(c *call) (answer, error) {
	if err := c.may("admin", "os-aggregates:index"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for _, a := range s.aggregates {
		list = append(list, aggregateView(c, copyAggregate(a), false))
	}
	return ok(map[string]any{"aggregates": list})
}

func (s *Server) showAggregate(c *call) (answer, error) {
	a, err := s.withAggregate(c, "show", func(*aggregate) error { return nil })
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"aggregate": aggregateView(c, a, false)})
}

type aggregateRequest struct {
	Aggregate *struct {
		Name string  `json:"name"`
		Zone *string `json:"availability_zone"`
	} `json:"aggregate"`
}

func (s *Server) createAggregate(c *call) (answer, error) {
	if err := c.may("admin", "os-aggregates:create"); err != nil {
		return answer{}, err
	}
	var body aggregateRequest
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	if body.Aggregate == nil {
		return answer{}, badRequest("'aggregate' is a required property")
	}
	if body.Aggregate.Name == "" {
		return answer{}, badRequest("Invalid input for field/attribute aggregate. Value: {}. 'name' is a required property")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aggregateNamed(body.Aggregate.Name) != nil {
		return answer{}, conflict("Aggregate %s already exists.", body.Aggregate.Name)
	}
	s.aggSerial++
	a := &aggregate{
		ID: s.aggSerial, UUID: s.deps.NewID(), Name: body.Aggregate.Name, Metadata: map[string]string{}, Created: s.deps.Clock(),
	}
	if zone := body.Aggregate.Zone; zone != nil && *zone != "" {
		a.Metadata["availability_zone"] = *zone
	}
	s.aggregates = append(s.aggregates, a)
	return ok(map[string]any{"aggregate": aggregateView(c, copyAggregate(a), true)})
}

func (s *Server) aggregateNamed(name string) *aggregate {
	for _, a := range s.aggregates {
		if a.Name == name {
			return a
		}
	}
	return nil
}

func (s *Server) updateAggregate(c *call) (answer, error) {
	var body aggregateRequest
	if err := wire.ReadJSON(c.Request, &body); err != nil || body.Aggregate == nil {
		return answer{}, badRequest("Invalid input for field/attribute aggregate.")
	}
	a, err := s.withAggregate(c, "update", func(a *aggregate) error {
		if name := body.Aggregate.Name; name != "" && name != a.Name {
			if s.aggregateNamed(name) != nil {
				return conflict("Aggregate %s already exists.", name)
			}
			a.Name = name
		}
		if body.Aggregate.Zone != nil {
			a.Metadata["availability_zone"] = *body.Aggregate.Zone
		}
		a.Updated = s.deps.Clock()
		return nil
	})
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"aggregate": aggregateView(c, a, false)})
}

func (s *Server) deleteAggregate(c *call) (answer, error) {
	a, err := s.withAggregate(c, "delete", func(a *aggregate) error {
		if len(a.Hosts) > 0 {
			return badRequest("Cannot remove host from aggregate %d. Reason: Host aggregate is not empty.", a.ID)
		}
		return nil
	})
	if err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aggregates = slices.DeleteFunc(s.aggregates, func(other *aggregate) bool { return other.ID == a.ID })
	return answer{status: http.StatusOK}, nil
}

func (s *Server) actOnAggregate(c *call) (answer, error) {
	var body struct {
		Add *struct {
			Host string `json:"host"`
		} `json:"add_host"`
		Remove *struct {
			Host string `json:"host"`
		} `json:"remove_host"`
		Set *struct {
			Metadata map[string]*string `json:"metadata"`
		} `json:"set_metadata"`
	}
	named := map[string]json.RawMessage{}
	raw, err := io.ReadAll(io.LimitReader(c.Body, wire.MaxBody))
	if err = errors.Join(err, json.Unmarshal(raw, &named), json.Unmarshal(raw, &body)); err != nil {
		return answer{}, malformed()
	}
	var (
		rule string
		work func(*aggregate) error
	)
	switch {
	case body.Add != nil:
		rule, work = "add_host", func(a *aggregate) error { return s.addToAggregate(a, body.Add.Host) }
	case body.Remove != nil:
		rule, work = "remove_host", func(a *aggregate) error {
			if !slices.Contains(a.Hosts, body.Remove.Host) {
				return notFound("Cannot remove host %s in aggregate %d", body.Remove.Host, a.ID)
			}
			a.Hosts = slices.DeleteFunc(a.Hosts, func(name string) bool { return name == body.Remove.Host })
			return nil
		}
	case body.Set != nil:
		rule, work = "set_metadata", func(a *aggregate) error {
			for key, value := range body.Set.Metadata {
				if value == nil {
					delete(a.Metadata, key)
				} else {
					a.Metadata[key] = *value
				}
			}
			a.Updated = s.deps.Clock()
			return nil
		}
	default:
		return answer{}, badRequest("There is no such action: %s", strings.Join(slices.Sorted(maps.Keys(named)), ", "))
	}
	a, err := s.withAggregate(c, rule, work)
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"aggregate": aggregateView(c, a, false)})
}

// addToAggregate runs under the lock.
func (s *Server) addToAggregate(a *aggregate, name string) error {
	if s.host(name) == nil {
		return notFound("Compute host %s could not be found.", name)
	}
	if slices.Contains(a.Hosts, name) {
		return conflict("Aggregate %d already has host %s.", a.ID, name)
	}
	a.Hosts = append(a.Hosts, name)
	return nil
}

// cacheImages is POST /os-aggregates/{id}/images since 2.81: 202, and then only notifications tell how it goes.
// It really places the image in the caches of the aggregate's nodes, whatever their driver.
func (s *Server) cacheImages(c *call) (answer, error) {
	if !c.at(81) {
		return answer{}, notFound("The resource could not be found.")
	}
	var body struct {
		Cache []struct {
			ID string `json:"id"`
		} `json:"cache"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	if body.Cache == nil {
		return answer{}, badRequest("'cache' is a required property")
	}
	if len(body.Cache) == 0 {
		return answer{}, badRequest("Invalid input for field/attribute cache. Value: []. [] is too short")
	}
	a, err := s.withAggregate(c, "compute:aggregates:images", func(*aggregate) error { return nil })
	if err != nil {
		return answer{}, err
	}
	images := make([]string, 0, len(body.Cache))
	for _, wanted := range body.Cache {
		if slices.Contains(images, wanted.ID) {
			return answer{}, badRequest("Duplicate images in request")
		}
		if _, err := s.deps.Images.Get(c.caller, wanted.ID); err != nil {
			return answer{}, badRequest("Image %s could not be found.", wanted.ID)
		}
		images = append(images, wanted.ID)
	}
	ask := askOf(c)
	s.background(func(ctx context.Context) { s.precache(ctx, ask, a, images) })
	return answer{status: http.StatusAccepted}, nil
}

func (s *Server) precache(ctx context.Context, ask request, a aggregate, images []string) {
	s.notifyAggregate(ask, "start", a)
	for n, name := range a.Hosts {
		done, failed := []string{}, []string{}
		h := s.host(name)
		for _, id := range images {
			if _, err := h.cache.ensure(ctx, ask.caller, id); err != nil {
				s.deps.Log.WithError(err).WithField("node", name).WithField("image", id).Warning("precache failed")
				failed = append(failed, id)
				continue
			}
			done = append(done, id)
		}
		s.notifyProgress(ask, a, name, done, failed, n+1)
	}
	s.notifyAggregate(ask, "end", a)
}
