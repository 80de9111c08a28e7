-- Rows for the schema of minimal.sql: one state, three districts, nine schools, a thousand students.
-- Every value follows from a counter, so that each stack has the same sample.

SET search_path = edfi;

CREATE FUNCTION pg_temp.descriptor(kind text, code text) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT descriptorid FROM edfi.descriptor
    WHERE namespace = 'uri://ed-fi.org/' || kind || 'Descriptor' AND codevalue = code
$$;

-- Identifiers tell the tree: 31 the state, 3101 its service centre, 310n01 districts, 310n01nnn their schools.
INSERT INTO educationorganization
    (educationorganizationid, nameofinstitution, shortnameofinstitution, operationalstatusdescriptorid, discriminator)
SELECT id, name, short, pg_temp.descriptor('OperationalStatus', 'Active'), 'edfi.' || kind
FROM (
    SELECT 31, 'Sample State Department of Education', 'SSDE', 'StateEducationAgency'
    UNION ALL
    SELECT 3101, 'Region One Education Service Center', 'Region 1', 'EducationServiceCenter'
    UNION ALL
    SELECT 310001 + 100 * district, 'Sample District ' || district, 'District ' || district, 'LocalEducationAgency'
    FROM generate_series(1, 3) AS district
    UNION ALL
    SELECT
        (310001 + 100 * district) * 1000 + school,
        'Sample High School ' || district || '-' || school, 'High School ' || district || '-' || school, 'School'
    FROM generate_series(1, 3) AS district, generate_series(1, 3) AS school
) AS organizations (id, name, short, kind);

INSERT INTO stateeducationagency (stateeducationagencyid) VALUES (31);

INSERT INTO educationservicecenter (educationservicecenterid, stateeducationagencyid) VALUES (3101, 31);

INSERT INTO localeducationagency
    (localeducationagencyid, educationservicecenterid, stateeducationagencyid, categorydescriptorid)
SELECT educationorganizationid, 3101, 31, pg_temp.descriptor('LocalEducationAgencyCategory', 'Independent')
FROM educationorganization WHERE discriminator = 'edfi.LocalEducationAgency';

INSERT INTO school (schoolid, localeducationagencyid, schooltypedescriptorid)
SELECT educationorganizationid, educationorganizationid / 1000, pg_temp.descriptor('SchoolType', 'Regular')
FROM educationorganization WHERE discriminator = 'edfi.School';

INSERT INTO calendar (calendarcode, schoolid, schoolyear) SELECT 'Regular', schoolid, 2026 FROM school;

INSERT INTO calendardate (calendarcode, schoolid, schoolyear, date)
SELECT 'Regular', schoolid, 2026, day
FROM school, generate_series(date '2025-08-18', date '2025-12-19', interval '1 day') AS day
WHERE extract(isodow FROM day) < 6;

INSERT INTO session (schoolid, schoolyear, sessionname, begindate, enddate, totalinstructionaldays)
SELECT schoolid, 2026, 'Fall Semester', '2025-08-18', '2025-12-19', 90 FROM school;

INSERT INTO gradingperiod (schoolid, schoolyear, gradingperiodname, gradingperioddescriptorid, begindate, enddate)
SELECT schoolid, 2026, name, pg_temp.descriptor('GradingPeriod', name), first, last
FROM school, (VALUES
    ('First Quarter', date '2025-08-18', date '2025-10-17'),
    ('Second Quarter', date '2025-10-20', date '2025-12-19')
) AS quarters (name, first, last);

INSERT INTO course (coursecode, educationorganizationid, coursetitle, academicsubjectdescriptorid)
SELECT code, localeducationagencyid, title, pg_temp.descriptor('AcademicSubject', subject)
FROM localeducationagency, (VALUES
    ('ALG-1', 'Algebra I', 'Mathematics'), ('BIO-1', 'Biology', 'Science'), ('ENG-1', 'English I', 'English'),
    ('HIST-1', 'World History', 'Social Studies'), ('ART-1', 'Art I', 'Fine Arts')
) AS courses (code, title, subject);

INSERT INTO courseoffering (localcoursecode, schoolid, schoolyear, sessionname, coursecode, educationorganizationid)
SELECT coursecode, schoolid, schoolyear, sessionname, coursecode, educationorganizationid
FROM session JOIN school USING (schoolid) JOIN course ON educationorganizationid = localeducationagencyid;

INSERT INTO section (sectionidentifier, localcoursecode, schoolid, schoolyear, sessionname, sectionname)
SELECT localcoursecode || '-' || number, localcoursecode, schoolid, schoolyear, sessionname, 'Period ' || number
FROM courseoffering, generate_series(1, 3) AS number;

INSERT INTO student (studentuniqueid, firstname, lastsurname, birthdate)
SELECT
    to_char(600000 + n, 'FM999999'),
    (ARRAY['Ada', 'Ben', 'Carla', 'David', 'Elena', 'Farid', 'Grace', 'Hugo', 'Iris', 'Jonas', 'Kira'])[1 + n % 11],
    (ARRAY['Abbott', 'Brandt', 'Castillo', 'Dubois', 'Ekman', 'Fontana', 'Garza'])[1 + n % 7],
    date '2008-09-01' + n % 1400
FROM generate_series(1, 1000) AS n;

INSERT INTO contact (contactuniqueid, firstname, lastsurname)
SELECT 'C' || studentuniqueid, 'Parent of ' || firstname, lastsurname FROM student ORDER BY studentusi;

INSERT INTO studentcontactassociation (studentusi, contactusi, primarycontactstatus)
SELECT studentusi, contactusi, true FROM student JOIN contact ON contactuniqueid = 'C' || studentuniqueid;

INSERT INTO staff (staffuniqueid, firstname, lastsurname)
SELECT
    to_char(207000 + n, 'FM999999'),
    (ARRAY['Lena', 'Marcus', 'Nadia', 'Oscar', 'Paula'])[1 + n % 5],
    (ARRAY['Hanson', 'Ibarra', 'Jensen', 'Kowalski', 'Lopez', 'Meyer', 'Novak'])[1 + n % 7]
FROM generate_series(1, 90) AS n;

INSERT INTO staffeducationorganizationassignmentassociation
    (staffusi, educationorganizationid, begindate, staffclassificationdescriptorid)
SELECT
    staffusi, schoolid, date '2025-08-01',
    pg_temp.descriptor('StaffClassification', CASE WHEN staffusi <= 9 THEN 'Principal' ELSE 'Teacher' END)
FROM staff JOIN (SELECT schoolid, row_number() OVER (ORDER BY schoolid) AS rank FROM school) AS ranked
    ON rank = 1 + staffusi % 9;

INSERT INTO studentschoolassociation (studentusi, schoolid, entrydate, entrygradeleveldescriptorid, schoolyear)
SELECT
    studentusi, schoolid, date '2025-08-18',
    pg_temp.descriptor('GradeLevel', (ARRAY['Ninth', 'Tenth', 'Eleventh', 'Twelfth'])[1 + studentusi % 4] || ' grade'),
    2026
FROM student JOIN (SELECT schoolid, row_number() OVER (ORDER BY schoolid) AS rank FROM school) AS ranked
    ON rank = 1 + studentusi % 9;

INSERT INTO studentsectionassociation
    (studentusi, sectionidentifier, localcoursecode, schoolid, schoolyear, sessionname, begindate, enddate)
SELECT
    studentusi, sectionidentifier, localcoursecode, schoolid, schoolyear, sessionname,
    date '2025-08-18', date '2025-12-19'
FROM studentschoolassociation JOIN section USING (schoolid, schoolyear)
WHERE sectionname = 'Period ' || 1 + studentusi % 3 AND localcoursecode IN ('ALG-1', 'BIO-1', 'ENG-1');

INSERT INTO grade
    (studentusi, sectionidentifier, localcoursecode, schoolid, schoolyear, sessionname, begindate, gradingperiodname,
     lettergradeearned, numericgradeearned)
SELECT
    studentusi, sectionidentifier, localcoursecode, schoolid, schoolyear, sessionname, enrolment.begindate,
    gradingperiodname,
    (ARRAY['A', 'B', 'C', 'D'])[1 + studentusi % 4], 95 - 10 * (studentusi % 4)
FROM studentsectionassociation AS enrolment JOIN gradingperiod USING (schoolid, schoolyear)
WHERE gradingperiodname = 'First Quarter';

ANALYZE;
