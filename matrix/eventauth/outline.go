package eventauth

import (
	"strconv"

	"weft/matrix/event"
)

// Step names one rule of the authorization rules, whatever its number.
type Step uint8

// The rules, in the order of the prose.
const (
	stepNone Step = iota

	StepCreatePrevEvents         // a create event has no prev_events
	StepCreateRoomID             // its room ID has the sender's domain; from version 12, it has no room_id
	StepCreateVersion            // content.room_version is recognised
	StepCreateCreator            // content.creator is there
	StepCreateAdditionalCreators // content.additional_creators is a list of user IDs
	StepCreateAllow              // otherwise, allow

	StepRoomID // the room ID is that of an accepted create event

	StepAuthDuplicate // no two auth events for one key
	StepAuthUnneeded  // only those of the auth events selection
	StepAuthRejected  // none that was rejected
	StepAuthCreate    // the create event is among them
	StepAuthRoom      // all of the same room

	StepFederate // m.federate

	StepAliasesNoStateKey // m.room.aliases has a state key
	StepAliasesDomain     // which is the sender's domain
	StepAliasesAllow      // otherwise, allow

	StepMemberKeys               // there is a state_key and a membership
	StepMemberAuthorised         // signed by the authorising server
	StepJoinCreator              // the creator's first join
	StepJoinSender               // nobody joins for others
	StepJoinBanned               // the banned do not join
	StepJoinInvited              // join rule invite (or knock)
	StepJoinRestrictedMember     // join rule restricted: invited or joined
	StepJoinRestrictedAuthoriser // and who authorised it may invite
	StepJoinRestrictedAllow      // otherwise, allow
	StepJoinPublic               // join rule public
	StepJoinOtherwise            // otherwise, reject
	StepThirdPartyBanned         // third-party invites: the target is not banned
	StepThirdPartySigned         // there is a signed
	StepThirdPartyKeys           // with mxid and token
	StepThirdPartyMXID           // mxid is the target
	StepThirdPartyEvent          // the invite that the token names exists
	StepThirdPartySender         // and has the same sender
	StepThirdPartySignature      // and one of its keys signed
	StepThirdPartyOtherwise      // otherwise, reject
	StepInviteSender             // who invites is joined
	StepInviteTarget             // the target is not joined or banned
	StepInviteLevel              // the invite level
	StepInviteOtherwise          // otherwise, reject
	StepLeaveSelf                // leaving
	StepLeaveSender              // who kicks is joined
	StepLeaveUnban               // the ban level
	StepLeaveKick                // the kick level
	StepLeaveOtherwise           // otherwise, reject
	StepBanSender                // who bans is joined
	StepBanLevel                 // the ban level
	StepBanOtherwise             // otherwise, reject
	StepKnockRule                // join rule knock
	StepKnockSender              // nobody knocks for others
	StepKnockAllow               // not banned, invited or joined
	StepKnockOtherwise           // otherwise, reject
	StepMemberUnknown            // an unknown membership

	StepSenderJoined     // the sender is joined
	StepThirdPartyLevel  // m.room.third_party_invite needs the invite level
	StepRequiredLevel    // the level for the event type
	StepUserStateKey     // state keys that begin with @
	StepLevelsIntegers   // power levels: the single values are integers
	StepLevelsLists      // events and notifications hold integers
	StepLevelsUsers      // users holds user IDs and integers
	StepLevelsCreators   // and no creators
	StepLevelsFirst      // the first power levels
	StepLevelsOldDefault // single values: the current value
	StepLevelsNewDefault // single values: the new value
	StepLevelsOldEntry   // events and notifications: the current value
	StepLevelsNewEntry   // events and notifications: the new value
	StepLevelsOldUser    // users: the current value
	StepLevelsNewUser    // users: the new value
	StepLevelsAllow      // otherwise, allow

	StepRedactionLevel     // redactions: the redact level
	StepRedactionDomain    // redactions: the same domain
	StepRedactionOtherwise // otherwise, reject

	StepAllow // otherwise, allow
	stepCount
)

// outline is the table of contents of one version's rules: the number of each
// step, empty where the version has no such step.
type outline [stepCount]string

// Number gives the number that the room version's prose has for a step, such as
// "4.3.1"; it is empty when the version has no such step.
func (s Step) Number(r *event.Rules) string {
	if o := outlines[r.Version]; o != nil {
		return o[s]
	}
	return newOutline(r)[s]
}

// outlines is built once and only read afterwards.
var outlines = buildOutlines()

func buildOutlines() map[event.RoomVersion]*outline {
	all := make(map[event.RoomVersion]*outline)
	for _, v := range event.Versions() {
		if r, err := event.Version(v); err == nil {
			all[v] = newOutline(r)
		}
	}
	return all
}

// numbering counts rules while the outline is written down.
type numbering struct {
	out    *outline
	prefix string
	n      int
}

// step gives the next number to a step.
func (b *numbering) step(s Step) {
	b.n++
	b.out[s] = b.prefix + strconv.Itoa(b.n)
}

// steps gives the next numbers to steps.
func (b *numbering) steps(list ...Step) {
	for _, s := range list {
		b.step(s)
	}
}

// when gives the next number to a step if the version has it.
func (b *numbering) when(has bool, s Step) {
	if has {
		b.step(s)
	}
}

// list numbers a rule that consists of rules.
func (b *numbering) list(fn func(b *numbering)) {
	b.n++
	fn(&numbering{out: b.out, prefix: b.prefix + strconv.Itoa(b.n) + "."})
}

// group numbers a rule that consists of the given steps.
func (b *numbering) group(list ...Step) {
	b.list(func(b *numbering) { b.steps(list...) })
}

// newOutline writes down a version's rules in the order of the prose.
//
// spec: rooms/v1 … rooms/v12, "Authorisation rules"
func newOutline(r *event.Rules) *outline {
	b := &numbering{out: new(outline)}
	b.list(func(b *numbering) { // m.room.create
		b.steps(StepCreatePrevEvents, StepCreateRoomID, StepCreateVersion)
		b.when(r.CreatorInContent, StepCreateCreator)
		b.when(r.CreatorsPrivileged, StepCreateAdditionalCreators)
		b.step(StepCreateAllow)
	})
	b.when(r.RoomIDIsCreateHash, StepRoomID)
	b.list(func(b *numbering) { // auth_events
		b.steps(StepAuthDuplicate, StepAuthUnneeded, StepAuthRejected)
		b.when(!r.RoomIDIsCreateHash, StepAuthCreate)
		b.step(StepAuthRoom)
	})
	b.step(StepFederate)
	if r.AuthorisesAliases {
		b.group(StepAliasesNoStateKey, StepAliasesDomain, StepAliasesAllow)
	}
	b.list(func(b *numbering) { numberMember(b, r) })
	b.step(StepSenderJoined)
	b.group(StepThirdPartyLevel)
	b.steps(StepRequiredLevel, StepUserStateKey)
	b.list(func(b *numbering) { numberPowerLevels(b, r) })
	if r.AuthorisesRedactions {
		b.group(StepRedactionLevel, StepRedactionDomain, StepRedactionOtherwise)
	}
	b.step(StepAllow)
	return b.out
}

func numberMember(b *numbering, r *event.Rules) {
	b.step(StepMemberKeys)
	if r.RestrictedJoin {
		b.group(StepMemberAuthorised)
	}
	b.list(func(b *numbering) {
		b.steps(StepJoinCreator, StepJoinSender, StepJoinBanned, StepJoinInvited)
		if r.RestrictedJoin {
			b.group(StepJoinRestrictedMember, StepJoinRestrictedAuthoriser, StepJoinRestrictedAllow)
		}
		b.steps(StepJoinPublic, StepJoinOtherwise)
	})
	b.list(func(b *numbering) {
		b.group(StepThirdPartyBanned, StepThirdPartySigned, StepThirdPartyKeys, StepThirdPartyMXID,
			StepThirdPartyEvent, StepThirdPartySender, StepThirdPartySignature, StepThirdPartyOtherwise)
		b.steps(StepInviteSender, StepInviteTarget, StepInviteLevel, StepInviteOtherwise)
	})
	b.group(StepLeaveSelf, StepLeaveSender, StepLeaveUnban, StepLeaveKick, StepLeaveOtherwise)
	b.group(StepBanSender, StepBanLevel, StepBanOtherwise)
	if r.Knock {
		b.group(StepKnockRule, StepKnockSender, StepKnockAllow, StepKnockOtherwise)
	}
	b.step(StepMemberUnknown)
}

func numberPowerLevels(b *numbering, r *event.Rules) {
	if r.IntegerPowerLevels {
		b.steps(StepLevelsIntegers, StepLevelsLists)
	}
	b.step(StepLevelsUsers)
	b.when(r.CreatorsPrivileged, StepLevelsCreators)
	b.step(StepLevelsFirst)
	b.group(StepLevelsOldDefault, StepLevelsNewDefault)
	b.group(StepLevelsOldEntry)
	b.group(StepLevelsNewEntry)
	b.group(StepLevelsOldUser)
	b.group(StepLevelsNewUser)
	b.step(StepLevelsAllow)
}
