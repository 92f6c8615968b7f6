package catalog

import "cmp"

// The statuses of a Glance image between which an administrator switches.
const (
	statusActive      = "active"
	statusDeactivated = "deactivated"
)

// Settlement is what has to change about one image in Glance so that it is as the catalog says.
type Settlement struct {
	Patch      GlancePatch
	Deactivate bool // after the patch
	Reactivate bool // before the patch
	Why        string
}

// Settle compares an image with what the catalog says of its version; false where nothing has to change. A revoked
// version's images are hidden, private, carry the reason, and are deactivated where bar says so; what was before is
// kept beside and comes back when the revocation is taken back. Images that an administrator deactivated stay so.
func Settle(v Version, s Sight, g GlanceImage, bar bool) (Settlement, bool) {
	out := Settlement{Patch: GlancePatch{Properties: map[string]string{}}, Why: s.Why}
	if g.Status != statusActive && g.Status != statusDeactivated {
		return out, false
	}
	if g.Hidden != s.Hidden {
		out.Patch.Hidden = &s.Hidden
	}
	if v.State == Revoked {
		out.revoke(v, g, bar)
	} else if _, was := g.Properties[PropRevoked]; was && v.State.Usable() {
		out.restore(g)
	}
	return out, out.Patch.Hidden != nil || out.Patch.Visibility != nil || len(out.Patch.Properties) > 0 || out.Deactivate || out.Reactivate
}

func (out *Settlement) revoke(v Version, g GlanceImage, bar bool) {
	if reason := short(cmp.Or(v.Note, "revoked with "+v.RevokedWith)); g.Properties[PropRevoked] != reason {
		out.Patch.Properties[PropRevoked] = reason
	}
	if private := "private"; g.Visibility != private {
		out.Patch.Visibility = &private
		out.Patch.Properties[PropVisibility] = g.Visibility
	}
	out.Deactivate = bar && g.Status == statusActive
}

func (out *Settlement) restore(g GlanceImage) {
	out.Patch.Properties[PropRevoked] = ""
	if was := g.Properties[PropVisibility]; was != "" {
		out.Patch.Properties[PropVisibility] = ""
		out.Patch.Visibility = &was
	}
	out.Reactivate = g.Status == statusDeactivated
}
