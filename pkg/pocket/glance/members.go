package glance

import (
	"net/http"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// member is a project with which a shared image is shared.
type member struct {
	id, status       string
	created, updated time.Time
}

func (i *image) renderMember(m *member) map[string]any {
	return map[string]any{"member_id": m.id, "image_id": i.id, "status": m.status, "schema": "/v2/schemas/member",
		"created_at": wire.Stamp(m.created), "updated_at": wire.Stamp(m.updated)}
}

func (s *Service) serveMembers(mux *http.ServeMux) {
	const all, one = "/v2/images/{id}/members", "/v2/images/{id}/members/{member}"
	mux.HandleFunc("GET "+all, s.route(s.listMembers))
	mux.HandleFunc("POST "+all, s.route(s.addMember))
	mux.HandleFunc("GET "+one, s.route(s.showMember))
	mux.HandleFunc("PUT "+one, s.route(s.updateMember))
	mux.HandleFunc("DELETE "+one, s.route(s.deleteMember))
}

// shared answers the image of the path where it is one that can have members.
func (s *Service) shared(c call) (*image, error) {
	i := s.images[c.id()]
	if i == nil || !i.seenBy(c.caller) {
		return nil, fail(http.StatusNotFound, "Image %s not found.", c.id())
	}
	if i.visibility != "shared" {
		return nil, fail(http.StatusForbidden, "Only shared images have members.")
	}
	return i, nil
}

func (i *image) member(id string) *member {
	for _, m := range i.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (s *Service) noMember(c call) error {
	return fail(http.StatusNotFound, "%s not found in the member list of the image %s.", c.PathValue("member"), c.id())
}

func (s *Service) listMembers(c call) (answer, error) {
	i, err := s.shared(c)
	if err != nil {
		return answer{}, err
	}
	list := []any{}
	for _, m := range i.members {
		if i.owner == c.caller.ProjectID || c.caller.Admin() || m.id == c.caller.ProjectID {
			list = append(list, i.renderMember(m))
		}
	}
	return answer{status: http.StatusOK, body: map[string]any{"members": list, "schema": "/v2/schemas/members"}}, nil
}

func (s *Service) addMember(c call) (answer, error) {
	var body struct {
		Member string `json:"member"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Member == "" {
		return answer{}, fail(http.StatusBadRequest, "Member to be added not specified")
	}
	i, err := s.shared(c)
	if i := s.images[c.id()]; err != nil && i != nil && i.mine(c.caller) {
		return answer{}, fail(http.StatusForbidden, "Not allowed to create members for image %s.", i.id)
	}
	if err != nil {
		return answer{}, err
	}
	if !i.mine(c.caller) {
		return answer{}, forbidden("add_member")
	}
	if i.member(body.Member) != nil {
		return answer{}, fail(http.StatusConflict, "Member %s is duplicated for image %s", body.Member, i.id)
	}
	now := s.kit.Clock()
	m := &member{id: body.Member, status: "pending", created: now, updated: now}
	i.members = append(slices.Clone(i.members), m)
	return answer{status: http.StatusOK, body: i.renderMember(m)}, nil
}

func (s *Service) showMember(c call) (answer, error) {
	i, err := s.shared(c)
	if err != nil {
		return answer{}, err
	}
	m := i.member(c.PathValue("member"))
	if m == nil {
		return answer{}, s.noMember(c)
	}
	return answer{status: http.StatusOK, body: i.renderMember(m)}, nil
}

// updateMember is for the member: it accepts or rejects what is shared with it.
func (s *Service) updateMember(c call) (answer, error) {
	var body struct {
		Status *string `json:"status"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Status == nil {
		return answer{}, fail(http.StatusBadRequest, "Status not specified")
	}
	i, err := s.shared(c)
	if err != nil {
		return answer{}, err
	}
	m := i.member(c.PathValue("member"))
	switch {
	case m == nil:
		return answer{}, s.noMember(c)
	case !c.caller.Admin() && i.owner == c.caller.ProjectID:
		return answer{}, fail(http.StatusForbidden, "You are not permitted to modify 'status' on this image member.")
	case !c.caller.Admin() && (m.id != c.caller.ProjectID || !c.caller.Is("member")):
		return answer{}, forbidden("modify_member")
	case !slices.Contains([]string{"pending", "accepted", "rejected"}, *body.Status):
		return answer{}, fail(http.StatusBadRequest, "Incorrect request: Status must be \"pending\", \"accepted\" or \"rejected\".")
	}
	m.status, m.updated = *body.Status, s.kit.Clock()
	return answer{status: http.StatusOK, body: i.renderMember(m)}, nil
}

func (s *Service) deleteMember(c call) (answer, error) {
	i, err := s.shared(c)
	if err != nil {
		return answer{}, err
	}
	m := i.member(c.PathValue("member"))
	if !i.mine(c.caller) {
		return answer{}, fail(http.StatusForbidden, "You cannot delete image member.")
	}
	if m == nil {
		return answer{}, s.noMember(c)
	}
	i.members = slices.DeleteFunc(slices.Clone(i.members), func(have *member) bool { return have == m })
	return answer{status: http.StatusNoContent}, nil
}
