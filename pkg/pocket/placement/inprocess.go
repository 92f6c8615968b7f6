package placement

import (
	"fmt"
	"maps"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// EnsureProvider implements wire.Placement.
func (s *Service) EnsureProvider(uuid, name string, inventory map[string]wire.Inventory) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.providers[uuid]
	if p == nil {
		p = &provider{uuid: uuid, name: name}
		if err := s.add(p); err != nil {
			return err
		}
	}
	changed := false
	for class, i := range inventory {
		if _, has := p.inventories[class]; !has {
			if !s.knownClass(class) {
				return fmt.Errorf("no such resource class %s", class)
			}
			p.inventories[class], changed = i, true
		}
	}
	if changed {
		s.bump(p)
	}
	return nil
}

// ProviderByName implements wire.Placement.
func (s *Service) ProviderByName(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.byName(name); p != nil {
		return p.uuid, nil
	}
	return "", fmt.Errorf("%w: %s", wire.ErrNoProvider, name)
}

// Claim implements wire.Placement.
func (s *Service) Claim(claim wire.Claim) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := s.consumers[claim.Consumer]; who != nil && len(who.holds) > 0 {
		return fmt.Errorf("%w: %s", wire.ErrClaimExists, claim.Consumer)
	}
	if s.providers[claim.Provider] == nil {
		return fmt.Errorf("%w: %s", wire.ErrNoProvider, claim.Provider)
	}
	holds := holdings{claim.Provider: maps.Clone(claim.Resources)}
	if err := s.checkAll(map[string]holdings{claim.Consumer: holds}); err != nil {
		return fmt.Errorf("%w: %s", wire.ErrNoCapacity, err.Error())
	}
	w := wish{ProjectID: claim.ProjectID, UserID: claim.UserID}
	if claim.Type != "" {
		w.Type = &claim.Type
	}
	s.set(claim.Consumer, holds, w, map[string]bool{})
	s.bump(s.providers[claim.Provider])
	return nil
}

// Release implements wire.Placement.
func (s *Service) Release(consumer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := s.consumers[consumer]; who != nil {
		s.unhold(who)
		delete(s.consumers, consumer)
	}
}

// Holds implements wire.Placement.
func (s *Service) Holds(consumer string) map[string]map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]map[string]int64{}
	if who := s.consumers[consumer]; who != nil {
		for id, resources := range who.holds {
			found[id] = maps.Clone(resources)
		}
	}
	return found
}

// Free implements wire.Placement.
func (s *Service) Free(provider string) (map[string]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.providers[provider]
	if p == nil {
		return nil, fmt.Errorf("%w: %s", wire.ErrNoProvider, provider)
	}
	left := map[string]int64{}
	for class := range p.inventories {
		left[class] = p.free(class)
	}
	return left, nil
}

// SetTrait implements wire.Placement.
func (s *Service) SetTrait(provider, trait string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.providers[provider]
	if p == nil {
		return fmt.Errorf("%w: %s", wire.ErrNoProvider, provider)
	}
	wanted := maps.Clone(p.traits)
	delete(wanted, trait)
	if on {
		wanted[trait] = true
	}
	s.setTraits(p, wanted)
	return nil
}
